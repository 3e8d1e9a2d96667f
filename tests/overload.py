"""More live connections than a table holds, as fast as the kernel makes them, and the account of it.

    python -m tests.overload [RUNS [TABLE [ROUNDS]]]

prints a line for each run, and exits with 1 if one of them does not add up.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collector.records import FATES
from tests.lab import Pair, veth_pair, wait_for
from tests.tool import flowml

TIMES_TOO_MANY = 2


@dataclass(frozen=True, slots=True)
class Account:
    """What came of a run: counts of packets, then of connections."""

    packets: int
    """That the interface has taken in, by its own count."""
    fates: int
    """All fates together, as the summary says."""
    offered: int
    """First segments that the interface has taken in, one a connection, by its own count."""
    written: int
    """Connections that ended, in the output."""
    still_open: int
    """Connections that were open when the run was stopped, in the output."""
    refused: int
    opened: int
    """Connections that got a slot, as the summary says."""
    parked: int
    seconds: float
    """Of sending."""

    def is_exact(self) -> bool:
        return (
            self.packets == self.fates
            and self.offered == self.written + self.refused + self.still_open
            and self.opened == self.written + self.still_open
            and min(self.refused, self.still_open, self.written, self.parked) > 0
        )


def overload(wire: Pair, folder: Path, *, table: int, rounds: int, ring_bytes: int) -> Account:
    """In each round twice as many connections as there are slots, all live before the first one ends.

    The first half finds a slot each, and is answered, so that it is not there to make room; the second half
    finds none. Then a segment of each, and the RST that ends it. Each burst comes as fast as it goes, while
    the drain runs. The half that comes after the last round stays open.
    """
    settings = folder / "overload.toml"
    settings.write_text(f"[conntrack]\nmax_connections = {table}\n[capture]\nring_bytes = {ring_bytes}\n")
    options = ("--direction", "ingress", "--filter", "tcp", "--config", settings)
    with flowml(wire.right, "collect", wire.right.iface, *options) as running:
        begun = wire.right.received()
        offered, seconds = 0, 0.0
        for turn in range(rounds + 1):
            first = turn * TIMES_TOO_MANY * table
            halves = [(flags, first + half * table, table) for half in (0, 1) for flags in "SB"]
            ends = [(flags, first, TIMES_TOO_MANY * table) for flags in "AR"]
            for flags, number, count in [*halves, *ends] if turn < rounds else halves[:2]:
                before = wire.right.received()
                seconds += _flood(wire, flags, number, count)
                if flags == "S":
                    offered += wire.right.received() - before
        packets = wire.right.received() - begun
        assert running.stop() == 0, running.stderr()
        reasons = Counter(line["reason"] for line in running.lines())
        counters = Counter(running.counters())
    return Account(
        packets,
        sum(counters[name] for name in FATES),
        offered,
        reasons.total() - reasons["shutdown"],
        reasons["shutdown"],
        counters["table_full"],
        counters["opened"],
        counters["parked"],
        seconds,
    )


def _flood(wire: Pair, flags: str, first: int, count: int) -> float:
    """One burst, until the last frame has arrived or is lost; the seconds that the kernel took for it."""
    words = [wire.left.iface, flags, str(first), str(count), "1"]
    argv: Sequence[str] = [sys.executable, "-m", "tests.flood", *words]
    took = float(wire.left.run(argv))
    seen = [-1]

    def quiet() -> bool:
        seen.append(wire.right.received())
        return seen[-1] == seen[-2]

    wait_for(quiet, "the wire to be quiet")
    return took


def main() -> None:
    runs, table, rounds = (int(word) for word in [*sys.argv[1:], *["10", "100000", "4"][len(sys.argv) - 1 :]])
    exact = 0
    for number in range(runs):
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, veth_pair() as wire:
            found = overload(wire, Path(folder), table=table, rounds=rounds, ring_bytes=1 << 22)
        exact += found.is_exact()
        print(
            f"run {number + 1}: {found.packets} packets at {found.packets / found.seconds:,.0f}/s, "
            f"fates {found.fates}; offered {found.offered} = written {found.written} "
            f"+ refused {found.refused} + still open {found.still_open}; parked {found.parked}; "
            f"{'exact' if found.is_exact() else 'NOT EXACT'}; {time.monotonic() - begin:.0f} s",
            flush=True,
        )
    print(f"{exact} of {runs} exact")
    sys.exit(exact < runs)


if __name__ == "__main__":
    main()
