"""TC egress: a GSO buffer counts as the segments that it will be on the wire."""

from __future__ import annotations

import pytest

from collector import kernel
from tests import frames
from tests.compare import raw_of_rows
from tests.oracle import Oracle
from tests.replay import Replay

pytestmark = pytest.mark.kernel

TC_ACT_UNSPEC = 0xFFFFFFFF
MSS = 1000
HEADERS = 20 + 20 + 12


def on_the_wire(payload: bytes) -> list[bytes]:
    """The frames that segmentation makes of one buffer."""
    parts = [payload[at : at + MSS] for at in range(0, len(payload), MSS)]
    return [frames.tcp("A", part, seq=1 + MSS * i, options=bytes(12)) for i, part in enumerate(parts)]


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 2999, 3000, 3001, 3500])
@pytest.mark.parametrize("says_segments", [True, False], ids=["gso_segs", "gso_size alone"])
def test_a_gso_buffer_counts_as_its_segments(replay: Replay, size: int, says_segments: bool) -> None:
    """Segments, bytes and TTLs equal those of the frames that it becomes."""
    payload = bytes(size)
    segments = -(-size // MSS)
    gso = {"gso_segs": segments if says_segments else 0, "gso_size": MSS} if segments > 1 else {}
    oracle = Oracle()
    for i, frame in enumerate([frames.tcp("S", options=bytes(12)), *on_the_wire(payload)]):
        oracle.packet(1 + i, frame)
    (expected,) = oracle.finish()

    egress = replay.loaded.tc_fd
    kernel.run_program(egress, frame=frames.tcp("S", options=bytes(12)))
    answer = kernel.run_program(egress, frame=frames.tcp("A", payload, seq=1, options=bytes(12)), skb=gso)
    replay.latest_ns = 0
    (raw,) = raw_of_rows(replay.finish())

    assert answer == TC_ACT_UNSPEC
    assert raw["s"]["packets"] == expected.s.packets == 1 + segments
    assert raw["s"]["bytes"] == expected.s.bytes == 2 * HEADERS - HEADERS + segments * HEADERS + size
    assert raw["s"]["ttl_sum"] == expected.s.ttl_sum


def test_a_buffer_too_long_for_its_header(replay: Replay) -> None:
    """BIG TCP: the total length is 0, and the buffer's own length tells; 3 segments and their headers."""
    payload = bytes(2 * MSS + 1)
    kernel.run_program(replay.loaded.tc_fd, frame=frames.tcp("S"))
    kernel.run_program(
        replay.loaded.tc_fd,
        frame=frames.tcp("A", payload, seq=1, total_length=0),
        skb={"gso_segs": 3, "gso_size": MSS},
    )
    (raw,) = raw_of_rows(replay.finish())

    assert raw["s"]["packets"] == 4
    assert raw["s"]["bytes"] == 40 + 3 * 40 + len(payload)


@pytest.mark.parametrize("jumbo", [False, True], ids=["payload length", "jumbo option"])
def test_a_buffer_of_ipv6_counts_as_its_segments(jumbo: bool) -> None:
    """Each with 40 bytes of IPv6 and 20 of TCP. BIG TCP's jumbo option in front is never on the wire."""
    payload = bytes(2 * MSS + 1)
    segment = frames.tcp_segment("A", payload, src="2001:db8::1", dst="2001:db8::2", seq=1)
    packet = frames.ipv6(segment)
    if jumbo:
        option = bytes([6, 0, 0xC2, 4]) + (len(segment) + 8).to_bytes(4, "big")
        packet = frames.ipv6(option + segment, next_header=0, payload_length=0)
    with Replay(ip="6") as replay:
        kernel.run_program(replay.loaded.tc_fd, frame=frames.tcp6("S"))
        large = frames.ethernet(packet, ethertype=0x86DD)
        kernel.run_program(replay.loaded.tc_fd, frame=large, skb={"gso_segs": 3, "gso_size": MSS})
        (raw,) = raw_of_rows(replay.finish())

    assert raw["s"]["packets"] == 4
    assert raw["s"]["bytes"] == 60 + 3 * 60 + len(payload)


def test_a_length_of_nothing_is_malformed_in_a_plain_frame(replay: Replay) -> None:
    """Only a GSO buffer may say 0."""
    kernel.run_program(replay.loaded.tc_fd, frame=frames.tcp("S", total_length=0))

    assert {name for name, value in replay.counters().items() if value} == {"malformed"}


def test_what_goes_out_and_what_comes_in_is_one_connection(replay: Replay) -> None:
    """XDP and TC count into the same flow, each into its side; the ClientHello is seen on its way out."""
    ingress, egress = replay.loaded.xdp_fd, replay.loaded.tc_fd

    kernel.run_program(egress, frame=frames.tcp("S", seq=5))
    replay.send(2, frames.answer("SA"))
    kernel.run_program(egress, frame=frames.tcp("A", frames.CLIENT_HELLO, seq=6))
    kernel.run_program(egress, frame=frames.tcp("R", seq=6))
    (raw,) = raw_of_rows(replay.table.ring.read())

    assert ingress != egress
    assert (raw["s"]["packets"], raw["d"]["packets"], raw["tls"], raw["reason"]) == (3, 1, True, "rst")


def test_egress_judges_frames_as_ingress_does(replay: Replay) -> None:
    """A fragment, a cut header, another protocol: the same fates."""
    whole = frames.tcp("S")
    for frame in (
        frames.tcp("A", fragment_offset=8),
        whole[:40],
        frames.tcp("S", proto=17),
        frames.tcp("S", ihl=4),
        frames.tcp("A"),
    ):
        kernel.run_program(replay.loaded.tc_fd, frame=frame)

    counters = {name: value for name, value in replay.counters().items() if value}
    assert counters == {"fragment": 1, "truncated": 1, "not_tcp": 1, "malformed": 1, "untracked": 1}
