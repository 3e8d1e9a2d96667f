"""A day of a gateway, and many more, in minutes: connections as fast as they go, and what that does to it.

    python -m tests.soak [MINUTES]

`flowml attach` predicts with a forest; nine of ten bursts of connections end by RST, the tenth by silence.
Every 20 seconds the output is rotated, and output and model are opened anew (SIGHUP). It holds if resident
memory, descriptors and threads are flat after the first two fifths, if every packet has a fate, and if every
connection has its line.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sklearn.ensemble import RandomForestClassifier

from collector.records import FATES
from ml.model import save
from tests.lab import end, veth_pair, wait_for
from tests.ml import samples
from tests.tool import Running, flowml

A_DAY = 200_000
"""Connections of a busy household in 24 hours."""
FLAGS, BURST, TURNS = "SAR" * 9 + "SA", 5000, 1 << 30
TIMEOUTS = {"tcp_establish_timeout": 1000, "tcp_inactivity_timeout": 1000}
ROTATE_S, SAMPLE_S = 20.0, 1.0
WARM_UP = 0.4
GROWTH_KIB = 2048
"""What memory may differ by from one sample to the next without meaning anything."""


@dataclass(slots=True)
class Samples:
    """Of one process, over time: resident KiB, open descriptors, threads."""

    rss_kib: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        self.rss_kib.append(int(status["VmRSS"][0]))
        self.threads.append(int(status["Threads"][0]))
        self.descriptors.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def troubles(self) -> list[str]:
        """What is not flat after the warm-up. By medians: while a model is read its file is open."""
        found = []
        for name, values, slack in (
            ("resident KiB", self.rss_kib, GROWTH_KIB),
            ("descriptors", self.descriptors, 0),
            ("threads", self.threads, 0),
        ):
            warm = values[int(len(values) * WARM_UP) :]
            early, late = median(warm[: len(warm) // 2]), median(warm[len(warm) // 2 :])
            if late > early + slack:
                found.append(f"{name} grew from {early:.0f} to {late:.0f}")
        return found


def a_model(path: Path) -> None:
    """A forest that was trained on noise: what it says does not matter here."""
    X = samples.numbers(0, 600)
    forest = RandomForestClassifier(20, random_state=0).fit(X, [row % 3 for row in range(600)])
    save(path, forest, samples.MACS, samples.contract(filter="tcp", timeouts=TIMEOUTS))


def rotate(running: Running, outfile: Path) -> int:
    """As logrotate does it; the lines in the file that was rotated."""
    old = outfile.with_suffix(".1")
    outfile.rename(old)
    running.process.send_signal(signal.SIGHUP)
    wait_for(outfile.exists, "the new file")
    count = old.read_bytes().count(b"\n")
    old.unlink()
    return count


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    taken = Samples()
    lines = 0
    with tempfile.TemporaryDirectory() as name, veth_pair() as wire:
        folder, outfile, model = Path(name), Path(name) / "lines" / "out.jsonl", Path(name) / "model.joblib"
        folder.chmod(0o755)
        outfile.parent.mkdir()
        outfile.parent.chmod(0o777)  # it runs as nobody, and makes its output anew
        a_model(model)
        settings = folder / "soak.toml"
        settings.write_text("[conntrack]\n" + "".join(f"{key} = {n}\n" for key, n in TIMEOUTS.items()))
        options = ("--direction", "ingress", "--filter", "tcp", "--config", settings, "--outfile", outfile)
        with flowml(
            wire.right, "attach", wire.right.iface, *options, "--model", model, own_outfile=True
        ) as running:
            pid = running.process.pid
            before = wire.right.received()
            sender = wire.left.popen(
                [sys.executable, "-m", "tests.flood", wire.left.iface, FLAGS, "0", str(BURST), str(TURNS)]
            )
            begin = time.monotonic()
            next_rotation = begin + ROTATE_S
            while (now := time.monotonic()) < begin + 60 * minutes:
                time.sleep(SAMPLE_S)
                taken.take(pid)
                if now >= next_rotation:
                    next_rotation += ROTATE_S
                    lines += rotate(running, outfile)
            end(sender, signal.SIGKILL)
            assert running.stop() == 0, running.stderr()
            lines += outfile.read_bytes().count(b"\n")
            packets = wire.right.received() - before
            counters = running.counters()
            reloads = running.stderr().count("model.joblib is loaded anew")
    troubles = taken.troubles()
    if (fates := sum(counters.get(name, 0) for name in FATES)) != packets:
        troubles.append(f"{packets} packets, but {fates} fates")
    if not lines == counters["opened"] == counters["delivered"]:
        troubles.append(f"opened {counters['opened']}, delivered {counters['delivered']}, lines {lines}")
    print(
        f"{lines} connections in {minutes:g} minutes, {lines / A_DAY:.0f} days of {A_DAY}; "
        f"{packets} packets; refused {counters.get('table_full', 0)}, parked {counters.get('parked', 0)}; "
        f"{reloads} times opened and loaded anew"
    )
    for title, values in (
        ("resident KiB", taken.rss_kib),
        ("descriptors", taken.descriptors),
        ("threads", taken.threads),
    ):
        fifths = [values[min(len(values) - 1, len(values) * part // 5)] for part in range(6)]
        print(f"{title}, at the start and after each fifth: {' '.join(map(str, fifths))}")
    print("; ".join(troubles) or "flat, and every packet and connection accounted for")
    sys.exit(bool(troubles))


if __name__ == "__main__":
    main()
