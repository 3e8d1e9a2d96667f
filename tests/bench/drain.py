"""Finished flows out of the kernel into a matrix of features: flowml's ways beside BCC's.

python -m tests.bench.drain [--rounds N] [--json FILE]
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from collector.features import matrix
from collector.records import FLOW, Rows, SweepMode
from tests.bench import walking
from tests.bench.rounds import Found, aim, in_turns, on_core, ratios, run, spread, table
from tests.bench.samples import Feeder, rows

TITLE = "Finished flows to a matrix"
HOW = """\
From 65,536 finished flows in the kernel to the float64 matrix of their 17 features, on one core. *Ring*:
real flows lie in the ring; flowml views it, BCC calls back for each. *Table*: flowml's sweep ends every
open flow and reads the ring; BCC iterates over a plain hash with the same keys and values and then clears
it, or looks up and deletes in batches. BCC's values are joined and go into flowml's own matrix, so that
what differs is the way out of the kernel. System calls are counted by strace, those for memory too."""

FLOWS = 65_536
RING, CALLBACK = "flowml, ring", "BCC, ring, a callback a flow"
SWEEP, ITERATION, BATCHES = "flowml, sweep", "BCC, item by item", "BCC, batch iterator"
ONCE = "--once"


class Bench:
    """Both ways, each as a function that answers flows a second."""

    def __init__(self) -> None:
        self.feeder = Feeder(rows(FLOWS))
        self.table = walking.flowml(walking.settings(max_connections=FLOWS), max_connections=FLOWS)
        self.plain = self.feeder.module["plain"]
        self.called: list[bytes] = []
        self.feeder.module["finished"].open_ring_buffer(self._call)

    def close(self) -> None:
        self.feeder.close()
        self.table.close()

    def _call(self, _context: object, data: Any, size: int) -> None:
        self.called.append(ctypes.string_at(data, size))

    def fill(self, way: str) -> None:
        """What the way drains."""
        if way in (RING, CALLBACK):
            self.feeder.feed(FLOWS)
        elif way == SWEEP:
            self.table.open(FLOWS)
        else:
            self._fill_plain()

    def _fill_plain(self) -> None:
        keys = np.zeros((FLOWS, 3), ">u4")
        keys[:, 0] = np.arange(FLOWS)
        keys_of, values_of = self.plain.Key * FLOWS, self.plain.Leaf * FLOWS
        self.plain.items_update_batch(
            keys_of.from_buffer_copy(keys.tobytes()), values_of.from_buffer_copy(self.feeder.rows.tobytes())
        )

    def drain(self, way: str) -> Rows:
        """Out of the kernel: the rows."""
        if way == RING:
            return self.feeder.ring.read()
        if way == SWEEP:
            assert self.table.table is not None
            self.table.table.sweep(SweepMode.SHUTDOWN)
            return self.table.table.ring.read()
        if way == CALLBACK:
            self.called.clear()
            self.feeder.module.ring_buffer_consume()
            return np.frombuffer(b"".join(self.called), FLOW)
        if way == ITERATION:
            values = [bytes(value) for _, value in self.plain.items()]
            self.plain.clear()
        else:
            values = [bytes(value) for _, value in self.plain.items_lookup_and_delete_batch()]
        return np.frombuffer(b"".join(values), FLOW)

    def turn(self, way: str) -> float:
        """Flows a second."""
        self.fill(way)
        begin = time.perf_counter()
        X = matrix(self.drain(way))
        took = time.perf_counter() - begin
        assert X.shape == (FLOWS, 17), (way, X.shape)
        return FLOWS / took


def system_calls(way: str) -> int:
    """What strace counts while so many flows become a matrix; the process marks begin and end by getppid."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        this = [sys.executable, "-m", "tests.bench.drain", ONCE, way]
        subprocess.run(["strace", "-qq", "-o", trace, *this], check=True)
        _, inside, _ = trace.read_text().split("getppid()")
    return inside.count("\n") - 1


def once(way: str) -> None:
    """One turn, the second, between two calls of getppid."""
    bench = Bench()
    bench.turn(way)
    bench.fill(way)
    os.getppid()
    matrix(bench.drain(way))
    os.getppid()


def measure(rounds: int) -> Found:
    """Flows a second by way; system calls of flowml's."""
    ways = (RING, CALLBACK, SWEEP, ITERATION, BATCHES)
    bench = Bench()
    with on_core(-1):
        flows = in_turns({way: partial(bench.turn, way) for way in ways}, rounds)
    bench.close()
    calls = {way: system_calls(way) for way in (RING, SWEEP)}
    return {"flows_per_second": flows, "system_calls": calls, "aims": aims(flows, calls)}


def aims(flows: dict[str, list[float]], calls: dict[str, int]) -> list[Found]:
    found = []
    for other, least in ((ITERATION, 10), (BATCHES, 5)):
        times = {way: statistics.median(ratios(flows[way], flows[other])) for way in (RING, SWEEP)}
        found.append(
            aim(
                f"finished flows to a matrix, of {other}",
                f"at least {least} times",
                "; ".join(f"{way}: {value:.1f}" for way, value in times.items()),
                reached=all(value >= least for value in times.values()),
            )
        )
    per_thousand = {way: 1000 * count / FLOWS for way, count in calls.items()}
    found.append(
        aim(
            "system calls for a thousand flows",
            "at most 1",
            "; ".join(f"{way}: {value:.2f}" for way, value in per_thousand.items()),
            reached=all(value <= 1 for value in per_thousand.values()),
        )
    )
    return found


def markdown(found: Found) -> str:
    flows, calls = found["flows_per_second"], found["system_calls"]
    rows_of = [
        [
            way,
            spread([value / 1e6 for value in values]),
            spread(ratios(values, flows[ITERATION]), 1),
            spread(ratios(values, flows[BATCHES]), 1),
            calls.get(way, ""),
        ]
        for way, values in flows.items()
    ]
    header = ("", "million flows/s", f"of {ITERATION}", f"of {BATCHES}", f"system calls, {FLOWS:,} flows")
    return table(header, rows_of)


if __name__ == "__main__":
    if sys.argv[1:2] == [ONCE]:
        once(sys.argv[2])
    else:
        run(measure, markdown)
