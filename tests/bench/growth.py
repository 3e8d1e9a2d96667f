"""What grows with the number of live connections, and how.

python -m tests.bench.growth [--rounds N] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from collector.records import SweepMode
from tests.bench import walking
from tests.bench.latency import measure as latency
from tests.bench.rounds import Found, in_turns, on_core, ratios, run, spread, table
from tests.bench.samples import forest
from tests.bench.walking import Programs, Walk, step
from tests.lab import run as run_command

TITLE = "Growth"
HOW = """\
Tables of so many connections, all of them open. *A packet* is a data segment of any of them in random
order, through the TC program, less what parsing it costs; beside it the smallest flow counter, one
look-up and two additions, in a hash of the same size. *A sweep* looks at every connection and finds none
that timed out. *Memory* is what the kernel charges for all maps, but for the ring. *Latency* is from the
segment that ends a connection to its line in the file, of 300 connections, 100 a second, one run each,
while so many others stay open and are swept."""

LIVE = (1024, 8192, 131_072, 1_048_576)
RUNS = 250_000
ENDED, PER_SECOND = 300, 100.0
PACKET, MINIMAL, SWEEP = "a packet, ns", "one look-up, two additions, ns", "a sweep, ms"


class Tables:
    """flowml and its baselines with so many connections open."""

    def __init__(self, live: int) -> None:
        self.live = live
        self.flowml = walking.flowml(walking.settings(max_connections=live), max_connections=live)
        self.parse = walking.baseline("-DPARSE_ONLY")
        self.minimal = walking.baseline("-DMINIMAL", f"-DCONNECTIONS={live}")
        self.flowml.open(live)
        self.minimal.open(live)

    def nanoseconds(self, programs: Programs) -> float:
        """Of a packet, beyond parsing."""
        walk = Walk(self.live)
        return step(programs.egress, "A", walk, RUNS) - step(self.parse.egress, "A", walk, RUNS)

    def sweep_ms(self) -> float:
        assert self.flowml.table is not None
        begin = time.perf_counter()
        self.flowml.table.sweep(SweepMode.TIMEOUT)
        return 1e3 * (time.perf_counter() - begin)

    def memory(self) -> int:
        """Bytes of flowml's maps, without the ring."""
        return sum(one["bytes_memlock"] for one in maps_of(self.flowml.ingress) if one["type"] != "ringbuf")

    def memory_of_minimal(self) -> int:
        return sum(one["bytes_memlock"] for one in maps_of(self.minimal.ingress))

    def close(self) -> None:
        for programs in (self.flowml, self.parse, self.minimal):
            programs.close()


def maps_of(prog_fd: int) -> list[Found]:
    """The maps of a program, as bpftool describes them."""
    info = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{prog_fd}").read_text().splitlines())
    program = json.loads(run_command(["bpftool", "-j", "prog", "show", "id", info["prog_id"]]))
    return [
        json.loads(run_command(["bpftool", "-j", "map", "show", "id", str(number)]))
        for number in program["map_ids"]
    ]


def measure(rounds: int) -> Found:
    """Costs by number of live connections."""
    tables = {live: Tables(live) for live in LIVE}
    what: dict[str, Callable[[Tables], float]] = {
        PACKET: lambda one: one.nanoseconds(one.flowml),
        MINIMAL: lambda one: one.nanoseconds(one.minimal),
        SWEEP: Tables.sweep_ms,
    }
    found: Found = {}
    with on_core(-1):
        for name, function in what.items():
            found[name] = in_turns(
                {str(live): partial(function, one) for live, one in tables.items()}, rounds
            )
    found["bytes"] = {str(live): one.memory() for live, one in tables.items()}
    found["bytes_of_minimal"] = {str(live): one.memory_of_minimal() for live, one in tables.items()}
    for one in tables.values():
        one.close()
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as name:
        Path(name).chmod(0o755)
        model = forest(Path(name))
        options = ("--filter", "tcp")
        found["latency"] = {str(live): latency(model, ENDED, PER_SECOND, live, options) for live in LIVE}
    return {**found, "aims": []}


def markdown(found: Found) -> str:
    rows = []
    for live in map(str, LIVE):
        late, size = found["latency"][live], found["bytes"][live]
        rows.append(
            [
                f"{int(live):,}",
                spread(found[PACKET][live], 0),
                spread(ratios(found[PACKET][live], found[MINIMAL][live])),
                spread(found[SWEEP][live]),
                f"{1e6 * statistics.median(found[SWEEP][live]) / int(live):.0f}",
                f"{size / int(live):.0f}",
                f"{size / found['bytes_of_minimal'][live]:.1f}",
                f"{late['p50_ms']:.1f}",
                f"{late['p99_ms']:.1f}",
            ]
        )
    header = ("live connections", PACKET, "of the smallest counter", SWEEP, "ns a connection")
    return table(
        (*header, "memory, bytes a connection", "of the smallest counter", "p50, ms", "p99, ms"), rows
    )


if __name__ == "__main__":
    run(measure, markdown)
