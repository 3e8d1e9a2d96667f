"""Hostile frames: any at all, mostly such that connections come of them; every header field at its edges."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from hypothesis import strategies as st

from tests import frames

__all__ = ["EDGES", "MS", "any_frames", "at_edges", "segments"]

MS = 1_000_000

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
                "ethertype": st.sampled_from([0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x8864]),
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
    return draw(linked(frame))


@st.composite
def linked(draw: st.DrawFn, frame: bytes) -> bytes:
    """The frame, perhaps in a PPPoE session, perhaps behind VLAN tags: only two are looked behind."""
    if draw(st.integers(0, 7)) == 0:
        frame = frames.pppoe(
            frame,
            protocol=draw(st.sampled_from([None, None, 0x0021, 0x0057, 0xC021])),
            code=draw(st.sampled_from([0, 0, 0, 9])),
        )
    for tpid in draw(st.lists(st.sampled_from([0x8100, 0x88A8, 0x9100]), max_size=3)):
        frame = frames.vlan(frame, tpid=tpid)
    return frame


ENDPOINTS6 = [("2001:db8::1", 40000), ("2001:db8::2", 443), ("::ffff:10.0.0.1", 40000), ("2001:db8::1", 443)]
USUAL6 = [(ENDPOINTS6[0], ENDPOINTS6[1]), (ENDPOINTS6[1], ENDPOINTS6[0])]
ANY_END6 = st.sampled_from(ENDPOINTS6)


@st.composite
def segments6(draw: st.DrawFn) -> bytes:
    """As `segments`, over IPv6, with extension headers that may be anything."""
    src, dst = draw(st.one_of(*[st.just(pair) for pair in 3 * USUAL6], st.tuples(ANY_END6, ANY_END6)))
    seq = draw(st.one_of(st.integers(0, 8), st.integers(0, 2**32 - 1)))
    packet = frames.tcp_segment(
        draw(st.sampled_from(["S", "S", "SA", "A", "A", "PA", "PA", "FA", "R", "SF"])),
        draw(PAYLOADS),
        src=src[0],
        sport=src[1],
        dst=dst[0],
        dport=dst[1],
        seq=seq,
        options=bytes(4 * draw(st.integers(0, 10))),
    )
    following = 6
    for header in draw(st.lists(EXTENSION_HEADERS, max_size=draw(st.sampled_from([0, 0, 1, 2, 10])))):
        kind, length, first, fill = header
        packet = bytes([following, length]) + first + bytes(fill) + packet
        following = kind
    odd: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "version": st.integers(0, 15),
                "payload_length": st.integers(0, 65535),
                "next_header": st.integers(0, 255),
            },
        )
        if draw(st.integers(0, 3)) == 0
        else st.just({})
    )
    hop_limit = draw(st.sampled_from([64, 64, 63, 255, 0]))
    fields = {"next_header": following, "hop_limit": hop_limit} | odd
    return draw(
        linked(frames.ethernet(frames.ipv6(packet, src=src[0], dst=dst[0], **fields), ethertype=0x86DD))
    )


@st.composite
def _extension(draw: st.DrawFn) -> tuple[int, int, bytes, int]:
    """Its kind, its length field, the two bytes after that, and how many bytes follow these."""
    kind = draw(st.sampled_from([0, 43, 44, 51, 60, 135, 139, 140, 0, 60, 50, 59, 17]))
    if kind == 44:
        offset = draw(st.sampled_from([0, 0, 1, 8, 0xFFF8]))
        return kind, draw(st.integers(0, 255)), offset.to_bytes(2, "big"), 4
    length = draw(st.sampled_from([0, 0, 1, 2, 30, 255]))
    true = 4 * (length + 2) if kind == 51 else 8 * (length + 1)
    wrong = draw(st.sampled_from([0, 0, 0, 0, -4, 4]))
    return kind, length, draw(st.binary(min_size=2, max_size=2)), max(0, true - 4 + wrong)


EXTENSION_HEADERS = _extension()


@st.composite
def cut(draw: st.DrawFn, least: int) -> bytes:
    """A frame that ends too early, after `least` bytes at the earliest."""
    frame = draw(st.one_of(segments(), segments6()))
    return frame[: draw(st.integers(least, len(frame)))]


def any_frames(least: int = 0) -> st.SearchStrategy[bytes]:
    """Frames of `least` bytes or more: well-formed, odd, cut short, and no frames at all."""
    return st.one_of(segments(), segments(), segments6(), cut(least), st.binary(min_size=least, max_size=120))


EDGES: dict[str, list[Any]] = {
    "src_mac": ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"],
    "ethertype": [0, 1500, 0x05FF, 0x0600, 0x07FF, 0x0801, 0x0806, 0x8100, 0x86DD, 0x88A8, 0x9100, 0xFFFF],
    "version": list(range(16)),
    "ihl": list(range(16)),
    "tos": [0, 255],
    "total_length": [0, 1, 19, 20, 21, 39, 40, 41, 59, 60, 61, 1500, 32767, 32768, 65534, 65535],
    "fragment_offset": [0, 1, 4095, 4096, 8190, 8191],
    "more_fragments": [False, True],
    "dont_fragment": [False, True],
    "ttl": [0, 1, 63, 64, 65, 254, 255],
    "proto": [0, 1, 4, 5, 6, 7, 17, 41, 47, 132, 255],
    "header_checksum": [0, 0xFFFF],
    "src": ["0.0.0.0", "0.0.0.1", "10.0.0.2", "127.255.255.255", "128.0.0.0", "255.255.255.255"],
    "dst": ["0.0.0.0", "0.0.0.1", "10.0.0.1", "127.255.255.255", "128.0.0.0", "255.255.255.255"],
    "sport": [0, 1, 255, 256, 443, 32767, 32768, 65535],
    "dport": [0, 1, 255, 256, 32767, 32768, 40000, 65535],
    "seq": [0, 1, 2, 6, 7, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1],
    "data_offset": list(range(16)),
    "window": [0, 65535],
    "tcp_checksum": [0, 0xFFFF],
    "urgent": [0, 65535],
    "flags": ["".join(letters) for n in range(9) for letters in combinations(frames.FLAGS, n)],
    "options": [bytes(n) for n in range(0, 44, 4)],
    "ip_options": [bytes(n) for n in range(0, 44, 4)],
}
"""Arguments of `frames.tcp`, and values of each: the least, the greatest, and around what is decided by."""


def at_edges(header: str) -> Iterator[list[tuple[int, bytes]]]:
    """Packets with each value of a header field: alone, between a SYN and its answer, and after the end."""
    for value in EDGES[header]:
        syn = _tcp(header, value, flags="S")
        data = _tcp(header, value, flags="PA", payload=frames.CLIENT_HELLO, seq=1)
        reset = _tcp(header, value, flags="R")
        opened = [frames.tcp("S"), frames.answer("SA"), frames.tcp("A", seq=1)]
        for sent in (
            [syn, frames.answer("SA")],
            [*opened, data, reset, data],
            [frames.vlan(syn), data, reset],
        ):
            yield list(enumerate(sent, 10**15))


def _tcp(header: str, value: Any, **fields: Any) -> bytes:
    """A frame with these fields, but that one."""
    return frames.tcp(**(fields | {header: value}))
