"""The kernel and the oracle count the same, bit for bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.compare import RELATIVE, features_of_rows, in_order, raw_of_connection, raw_of_rows
from tests.conftest import captures
from tests.oracle import Oracle, read_pcap
from tests.replay import Replay

pytestmark = [pytest.mark.kernel, pytest.mark.traces]

CAPTURES = captures()
EVERY = 1


@pytest.mark.parametrize("capture", CAPTURES[::EVERY], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_connection_of_a_capture_is_counted_as_the_oracle_counts_it(
    replay: Replay, capture: Path
) -> None:
    """Raw integers are equal; features agree to a few roundings; the fates of the packets agree."""
    packets = list(read_pcap(capture))
    oracle = Oracle()
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    expected = oracle.finish()

    rows = replay.run(packets)

    assert in_order(raw_of_rows(rows)) == in_order([raw_of_connection(one) for one in expected])
    counters = replay.counters()
    assert {fate: counters[fate] for fate in oracle.counters} == oracle.counters
    by_start = {(one.start_ns, one.src_ip, one.src_port): one.features() for one in expected}
    for raw, ours in zip(raw_of_rows(rows), features_of_rows(rows), strict=True):
        theirs = by_start[(raw["s"]["first_ns"], *raw["src"])]
        for name, value in ours.items():
            wanted = theirs[name]
            assert math.isnan(value) if wanted is None else math.isclose(value, wanted, rel_tol=RELATIVE), (
                name
            )
