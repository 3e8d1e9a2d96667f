"""Whatever comes, the kernel and the oracle make the same of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import frames
from tests.compare import in_order, raw_of_connection, raw_of_rows
from tests.oracle import Oracle
from tests.replay import Replay

pytestmark = pytest.mark.kernel

MS = 1_000_000
KERNEL_MINIMUM = 14
"""BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header."""

ENDPOINTS = [("10.0.0.1", 40000), ("10.0.0.2", 443), ("10.0.0.1", 443), ("10.0.0.2", 40000)]

USUAL = [(ENDPOINTS[0], ENDPOINTS[1]), (ENDPOINTS[1], ENDPOINTS[0])]
ANY_END = st.sampled_from(ENDPOINTS)

PAYLOADS = st.one_of(
    st.just(b""),
    st.binary(max_size=8),
    st.integers(0, 7).map(lambda n: frames.CLIENT_HELLO[:n]),
    st.just(frames.CLIENT_HELLO),
)


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """A TCP frame between few endpoints, so that they meet, with any field at any value."""
    # Mostly one tuple, in both directions, so that connections get to have many segments.
    src, dst = draw(st.one_of(*[st.just(pair) for pair in 3 * USUAL], st.tuples(ANY_END, ANY_END)))
    # Small sequence numbers, and those around the wrap, so that payloads meet the stream's beginning.
    seq = draw(st.one_of(st.integers(0, 8), st.integers(2**32 - 4, 2**32 - 1), st.integers(0, 2**32 - 1)))
    odd: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "ttl": st.integers(0, 255),
                "version": st.integers(0, 15),
                "ihl": st.integers(0, 15),
                "data_offset": st.integers(0, 15),
                "total_length": st.integers(0, 65535),
                "fragment_offset": st.integers(0, 8191),
                "more_fragments": st.booleans(),
                "proto": st.integers(0, 255),
                "ethertype": st.sampled_from([0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8]),
            },
        )
        if draw(st.integers(0, 3)) == 0
        else st.just({})
    )
    frame = frames.tcp(
        draw(
            st.sampled_from(
                ["S", "S", "S", "SA", "A", "A", "A", "PA", "PA", "FA", "F", "R", "RA", "SF", "", "SFRPAU"]
            )
        ),
        draw(PAYLOADS),
        src=src[0],
        sport=src[1],
        dst=dst[0],
        dport=dst[1],
        seq=seq,
        ttl=odd.pop("ttl", draw(st.sampled_from([64, 64, 63, 128, 255, 0]))),
        options=bytes(4 * draw(st.integers(0, 10))),
        ip_options=bytes(4 * draw(st.integers(0, 10))),
        **odd,
    )
    for tpid in draw(st.lists(st.sampled_from([0x8100, 0x88A8]), max_size=3)):
        frame = frames.vlan(frame, tpid=tpid)
    return frame


@st.composite
def cut(draw: st.DrawFn) -> bytes:
    """A frame that ends too early."""
    frame = draw(segments())
    return frame[: draw(st.integers(KERNEL_MINIMUM, len(frame)))]


FRAMES = st.one_of(segments(), segments(), cut(), st.binary(min_size=KERNEL_MINIMUM, max_size=120))
GAPS = st.sampled_from(
    [0, 1, 1, 1, 1000, 1000, MS, MS, MS, 4999 * MS, 5000 * MS, 5001 * MS, 300_000 * MS, 300_001 * MS, -MS]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(GAPS, FRAMES), max_size=24))
def test_kernel_and_oracle_agree(replay: Replay, arrivals: list[tuple[int, bytes]]) -> None:
    """Connections, raw counters and the fates of the packets are equal; the fates add up to the packets."""
    replay.restart()
    oracle = Oracle()
    now = 10**15
    packets = []
    for gap, frame in arrivals:
        now += gap
        packets.append((now, frame))
        oracle.packet(now, frame)

    rows = replay.run(packets)

    assert in_order(raw_of_rows(rows)) == in_order([raw_of_connection(one) for one in oracle.finish()])
    counters = replay.counters()
    assert {fate: counters[fate] for fate in oracle.counters} == oracle.counters
    assert sum(oracle.counters.values()) == len(packets)
    assert counters["opened"] == counters["delivered"] == len(rows)


@pytest.mark.parametrize("length", range(KERNEL_MINIMUM, 90))
def test_a_frame_cut_at_any_length_is_judged_alike(replay: Replay, length: int) -> None:
    """A SYN with a tag and options, cut at each length in turn."""
    whole = frames.vlan(frames.tcp("S", b"data", options=bytes(12), ip_options=bytes(8)))
    packets = [(1, whole[:length]), (2, whole)]
    oracle = Oracle()
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)

    rows = replay.run(packets)

    assert in_order(raw_of_rows(rows)) == in_order([raw_of_connection(one) for one in oracle.finish()])
    counters = replay.counters()
    assert {fate: counters[fate] for fate in oracle.counters} == oracle.counters
