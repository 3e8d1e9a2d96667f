"""Whatever comes, the kernel, the CPU and the oracle make the same of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.records import IP_VERSIONS
from collector.replay import CLOCK_OFFSET_NS
from tests import frames
from tests.any_frames import EDGES, MS, any_frames, at_edges
from tests.compare import in_order, raw_of_connection, raw_of_rows
from tests.on_cpu import LIMITS, replayed
from tests.oracle import Oracle
from tests.replay import Replay

pytestmark = pytest.mark.kernel

KERNEL_MINIMUM = 14
"""BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header."""

FRAMES = any_frames(KERNEL_MINIMUM)
GAPS = st.sampled_from(
    [0, 1, 1, 1, 1000, 1000, MS, MS, MS, 4999 * MS, 5000 * MS, 5001 * MS, 300_000 * MS, 300_001 * MS, -MS]
)


@pytest.fixture(scope="module", params=["4", "6", "both"])
def replay(request: pytest.FixtureRequest) -> Iterator[Replay]:
    """A table for each choice of what of IP is looked at: it decides the size of the keys, too."""
    with Replay(ip=request.param) as one:
        yield one


@pytest.fixture(autouse=True)
def _as_new(replay: Replay) -> None:
    replay.restart()


def all_agree(replay: Replay, packets: list[tuple[int, bytes]]) -> None:
    """The same packets, at the same times of the core's clock, through all three."""
    limits = LIMITS._replace(ip=replay.limits.ip)
    oracle = Oracle(versions=str(IP_VERSIONS[limits.ip]))
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    expected = in_order([raw_of_connection(one) for one in oracle.finish()])

    in_kernel = replay.run(packets)
    on_cpu = replayed(frames.pcap([(time_ns + CLOCK_OFFSET_NS, frame) for time_ns, frame in packets]), limits)

    assert in_order(raw_of_rows(in_kernel)) == expected
    assert in_order(raw_of_rows(on_cpu.rows)) == expected
    counters = replay.counters()
    assert {fate: counters[fate] for fate in oracle.counters} == oracle.counters
    assert on_cpu.account.counters == counters
    assert sum(oracle.counters.values()) == len(packets)
    assert counters["opened"] == counters["delivered"] == len(in_kernel)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(GAPS, FRAMES), max_size=24))
def test_kernel_cpu_and_oracle_agree(replay: Replay, arrivals: list[tuple[int, bytes]]) -> None:
    """Connections, raw counters and the fates of the packets are equal; the fates add up to the packets."""
    replay.restart()
    now = 10**15
    packets = []
    for gap, frame in arrivals:
        now += gap
        packets.append((now, frame))
    all_agree(replay, packets)


@pytest.mark.parametrize("length", range(KERNEL_MINIMUM, 90))
def test_a_frame_cut_at_any_length_is_judged_alike(replay: Replay, length: int) -> None:
    """A SYN with a tag and options, cut at each length in turn."""
    whole = frames.vlan(frames.tcp("S", b"data", options=bytes(12), ip_options=bytes(8)))
    all_agree(replay, [(1, whole[:length]), (2, whole)])


@pytest.mark.parametrize("header", list(EDGES))
def test_a_header_field_at_its_edges_is_judged_alike(replay: Replay, header: str) -> None:
    """As the first segment, in the middle of a connection, and where there is none."""
    for packets in at_edges(header):
        replay.restart()
        all_agree(replay, packets)
