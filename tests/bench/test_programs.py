"""The programs of the benchmarks do what the numbers are said to be of."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from collector.drain import Ring
from collector.records import ORIGINATOR, SweepMode, packets, sides
from tests.bench import walking
from tests.bench.generator import CONCURRENT, PER_CONNECTION
from tests.bench.packets import BASELINES, LRU, MINIMAL, PER_CPU, RING_BYTES, SIZED, SPIN_LOCK, TIMED
from tests.bench.rounds import on_core
from tests.bench.walking import Walk, step
from tests.lab import veth_pair, wait_for
from tests.tool import flowml

pytestmark = pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning")  # BCC's, of itself

FLOWS = 256


@pytest.mark.kernel
@pytest.mark.parametrize("hook", ["XDP", "TC"])
def test_a_walk_meets_every_connection_equally_often(hook: str) -> None:
    """Over flowml's own core: what was opened is all that is met, each three times."""
    programs = walking.flowml(walking.settings(max_connections=FLOWS), max_connections=FLOWS)
    assert programs.table is not None
    programs.open(FLOWS)
    step(programs.fd(hook), "A", Walk(FLOWS), 3 * FLOWS)
    programs.table.sweep(SweepMode.SHUTDOWN)
    rows = programs.table.ring.read()
    counters = programs.table.counters()
    programs.close()

    assert len(rows) == FLOWS
    assert set(packets(sides(rows))[ORIGINATOR]) == {1 + 3}
    assert {name: value for name, value in counters.items() if value} == {
        "tracked": 4 * FLOWS,
        "opened": FLOWS,
        "delivered": FLOWS,
    }


@pytest.mark.kernel
@pytest.mark.parametrize("hook", ["XDP", "TC"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [(MINIMAL, 3), ("the same, atomic", 3), (TIMED, 3), (SIZED, 3), (SPIN_LOCK, 4), (PER_CPU, 4), (LRU, 4)],
)
def test_a_pattern_counts_every_segment(name: str, hook: str, expected: int) -> None:
    """An entry for every connection, in which every segment is; the smallest counter leaves out the SYN."""
    programs = walking.baseline(f"-D{BASELINES[name]}", f"-DCONNECTIONS={4 * FLOWS}")
    programs.open(FLOWS)
    with on_core(0):
        step(programs.fd(hook), "A", Walk(FLOWS), 3 * FLOWS)
    values = programs.module["flows"].values()
    counted = [sum(segments_of(one) for one in (value if name == PER_CPU else [value])) for value in values]
    programs.close()

    assert counted == [expected] * FLOWS


def segments_of(value: Any) -> int:
    """Of both directions, in one value of a pattern's table."""
    if hasattr(value, "segments"):
        return int(value.segments)
    return sum(int(side.segments) for side in value.side)


@pytest.mark.kernel
def test_the_ring_pattern_writes_a_record_a_segment() -> None:
    """All of one size, as many as there were segments."""
    programs = walking.baseline("-DRING", f"-DRING_BYTES={RING_BYTES}")
    ring = Ring(os.dup(programs.module["segments"].map_fd), RING_BYTES)
    step(programs.ingress, "A", Walk(FLOWS), 3 * FLOWS)
    written = int(ring._producer[0])
    ring.close()
    programs.close()

    assert written == 3 * FLOWS * (8 + 40)


@pytest.mark.live
def test_what_is_sent_is_whole_connections() -> None:
    """Of ten segments each, opened and reset, none of them lost on the way."""
    segments = 2 * CONCURRENT * PER_CONNECTION
    with (
        veth_pair() as wire,
        flowml(
            wire.right, "collect", wire.right.iface, "--direction", "ingress", "--filter", "tcp"
        ) as running,
    ):
        sender = [sys.executable, "-m", "tests.bench.generator"]
        wire.left.run([*sender, wire.left.iface, str(segments), "20000"])
        wait_for(lambda: len(running.lines()) == 2 * CONCURRENT, "the lines")
        assert running.stop() == 0
        lines, tracked = running.lines(), running.counters()["tracked"]

    assert {(line["reason"], line["s_pkt_cnt"], line["d_pkt_cnt"]) for line in lines} == {("rst", 6, 4)}
    assert tracked == segments
