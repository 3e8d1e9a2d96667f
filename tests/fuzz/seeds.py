"""What the fuzz targets begin with where there is no corpus yet: made by hand, a file a case.

`python -m tests.fuzz.seeds FOLDER` writes FOLDER/packets and FOLDER/files.
"""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests import frames
from tests.frames import CLIENT_HELLO, answer, tcp

__all__ = ["as_pcapng", "write"]

S = 1_000_000_000
ETHERNET, NULL, PPP, RAW, LOOP, SLL, IPV4, SLL2 = 1, 0, 9, 101, 108, 113, 228, 276

LINKS = (ETHERNET, SLL, SLL2, RAW, IPV4, NULL, LOOP, PPP)
"""As LINKS of packets.h, by the numbers that stand in captures."""

STEPS = (0, 1, 1000, 1_000_000, S, 5 * S - 1, 5 * S, 5 * S + 1, 300 * S - 1, 300 * S, 300 * S + 1)
"""The first of STEPS in packets.c, nanoseconds."""

GSO, IMPOSSIBLE, SWEEP, RING_FULL = 0x10, 0x20, 0x40, 0x80
"""As PACKET_... of packets.h."""

Arrivals = list[tuple[int, bytes]]
"""Nanoseconds since the packet before, and the frame."""


def connections() -> Iterator[tuple[str, Arrivals]]:
    """Cases that the core tells apart."""
    syn, syn_ack, ack = tcp("S"), answer("SA"), tcp("A", seq=1)
    hello = tcp("PA", CLIENT_HELLO, seq=1)
    fins = [(1000, tcp("FA", seq=22)), (1000, answer("FA")), (1, tcp("A", seq=23))]
    opened = [(0, syn), (1000, syn_ack), (1000, ack)]
    yield "whole", [*opened, (1000, hello), *fins]
    yield "reset", [*opened, (1000, answer("R"))]
    yield "silent", [(0, syn)]
    yield "fast_open", [(0, tcp("S", CLIENT_HELLO)), (1000, syn_ack)]
    yield "half_closed", [*opened, (1000, tcp("FA", seq=1)), (1000, answer("A"))]
    yield "fin_syn", [(0, tcp("SF")), (0, answer("SFA"))]
    yield "again", [*opened, *fins, *opened, *fins]
    split = [tcp("PA", CLIENT_HELLO[i : i + 1], seq=1 + i) for i in range(6)]
    yield "split", [*opened, *((1, one) for one in reversed(split))]
    yield "not_tls", [*opened, (1, tcp("PA", b"GET / ", seq=1)), *fins]
    for at in range(5, len(STEPS)):
        yield f"pause_{at}_one", [(0, syn), (STEPS[at], syn_ack)]
        yield f"pause_{at}_two", [(0, syn), (1, syn_ack), (STEPS[at], ack), (0, syn)]
    many = [(0, tcp("S", sport=40000 + i)) for i in range(8)]
    yield "many", [*many, (5 * S + 1, tcp("S", sport=50000)), (S, hello)]
    yield "itself", [(0, tcp("S", src="10.0.0.1", dst="10.0.0.1", sport=9, dport=9)), (0, syn)]
    yield "tags", [(0, frames.vlan(frames.vlan(syn), tpid=0x88A8)), (0, frames.vlan(syn_ack))]
    options = tcp("S", options=bytes(40), ip_options=bytes(40))
    yield "options", [(0, frames.vlan(frames.vlan(options))), (0, frames.vlan(frames.vlan(frames.vlan(syn))))]
    yield "cut", [(0, options[:length]) for length in range(0, len(options), 7)]
    yield "odd", [(0, frames.tcp6("S")), (0, tcp(proto=17)), (0, tcp(fragment_offset=1)), (0, tcp(ihl=4))]
    for code, packet in extended():
        yield f"v6_{code}", [(0, packet), (0, frames.tcp6("A")), (0, packet[:-20])]
    yield "pppoe", [(0, frames.pppoe(syn)), (0, frames.vlan(frames.pppoe(frames.tcp6("S")), tpid=0x9100))]
    yield "odder", [(0, tcp(version=6)), (0, tcp(data_offset=4)), (0, tcp(total_length=39)), (0, b"")]


def extended() -> Iterator[tuple[int, bytes]]:
    """SYNs over IPv6 behind an extension header of each kind, by its number, and behind too many."""
    segment = frames.tcp_segment("S", src="2001:db8::1", dst="2001:db8::2")
    for kind in (0, 43, 44, 51, 60, 135, 139, 140, 50, 59):
        body = bytes([6, 0]) + bytes(6) + segment
        yield kind, frames.ethernet(frames.ipv6(body, next_header=kind), ethertype=0x86DD)
    many = bytes([60, 0] + 6 * [0]) * 8 + bytes([6, 0] + 6 * [0]) + segment
    yield 256, frames.ethernet(frames.ipv6(many, next_header=0), ethertype=0x86DD)


def behind(link: int, frame: bytes) -> bytes:
    """An Ethernet frame, untagged, as a packet of another link."""
    if link == ETHERNET:
        return frame
    mac, ethertype, packet = frame[6:12], frame[12:14], frame[14:]
    header = {
        SLL: struct.pack("!HHH", 0, 1, 6) + mac + bytes(2) + ethertype,
        SLL2: ethertype + struct.pack("!HIHBB", 0, 1, 1, 0, 6) + mac + bytes(2),
        NULL: struct.pack("<I", 2),
        LOOP: struct.pack(">I", 2),
        PPP: bytes.fromhex("ff030021"),
    }
    return header.get(link, b"") + packet


def as_packets(arrivals: Arrivals, link: int = ETHERNET, settings: bytes = bytes(4), about: int = 0) -> bytes:
    """An input of the packets target."""
    data = settings
    for gap, frame in arrivals:
        frame = behind(link, frame)
        data += bytes([LINKS.index(link) | about, STEPS.index(gap), len(frame)]) + frame
    return data


def clocked(arrivals: Arrivals, link: int = ETHERNET) -> Iterator[tuple[int, bytes]]:
    """With times instead of gaps, and the link's header."""
    now = S
    for gap, frame in arrivals:
        now += gap
        yield now, behind(link, frame)


def as_pcapng(packets: Iterable[tuple[int, bytes]], order: str = "<", link: int = ETHERNET) -> bytes:
    """A pcapng file with times in nanoseconds; every other packet without one, as simple packets are."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = struct.pack(order + "I", 12 + len(body))
        return struct.pack(order + "I", kind) + length + body + length

    data = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    resolution = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0)
    data += block(1, struct.pack(order + "HHI", link, 0, 262144) + resolution)
    for number, (now, frame) in enumerate(packets):
        if number % 2:
            data += block(3, struct.pack(order + "I", len(frame)) + frame)
        else:
            about = struct.pack(order + "IIIII", 0, now >> 32, now & 0xFFFFFFFF, len(frame), len(frame))
            data += block(6, about + frame)
    return data


def packets_seeds() -> Iterator[tuple[str, bytes]]:
    for name, arrivals in connections():
        yield name, as_packets(arrivals)
        yield f"{name}_roomy", as_packets(arrivals, settings=bytes([5, 1, 9, 7]))
    whole = dict(connections())["whole"]
    for link in LINKS:
        yield f"link_{link}", as_packets(whole, link)
    families = [struct.pack("<I", family) + bytes(40) for family in (2, 10, 24, 28, 30, 7)]
    yield "families", bytes(4) + b"".join(bytes([LINKS.index(NULL), 0, 44]) + one for one in families)
    for about in (GSO, IMPOSSIBLE, SWEEP, RING_FULL, SWEEP | RING_FULL):
        yield f"about_{about}", as_packets(whole + whole, about=about)


def files_seeds() -> Iterator[tuple[str, bytes]]:
    cases = dict(connections())
    whole = cases["whole"]
    for name, arrivals in cases.items():
        yield name, frames.pcap(clocked(arrivals))
    for link in LINKS:
        yield f"link_{link}", frames.pcap(clocked(whole, link), link_type=link)
        yield f"ng_link_{link}", as_pcapng(clocked(whole, link), link=link)
    plain = frames.pcap(clocked(cases["reset"]), byte_order=">", nanoseconds=False)
    yield "big_endian", plain
    yield "ng_big_endian", as_pcapng(clocked(whole), ">")
    yield "modified", b"\x34\xcd\xb2\xa1" + plain[4:]
    yield "cut_frames", frames.pcap(clocked(whole), snap_length=60)
    yield "unknown_link", frames.pcap(clocked(whole), link_type=147)
    packed = gzip.compress(plain, mtime=0)
    yield "gzip", packed
    yield "gzip_members", gzip.compress(plain[:50], mtime=0) + gzip.compress(plain[50:], mtime=0)
    yield "gzip_padded", packed + bytes(16)
    yield "gzip_garbage", packed + b"gar\x1fbage"
    yield "gzip_damaged", packed[:-8] + bytes(8)
    yield "gzip_cut", packed[:-9]
    zstd = subprocess.run(["zstd", "-c"], input=plain, capture_output=True, check=True).stdout
    yield "zstd", zstd
    yield "zstd_frames", zstd + bytes.fromhex("502a4d18 02000000 0000")
    yield "zstd_cut", zstd[:-3]
    yield "zstd_damaged", zstd[:-4] + bytes(4)
    yield "text", b"not a capture\n"


def write(folder: Path) -> None:
    """Every seed, below `folder`."""
    for target, seeds in (("packets", packets_seeds()), ("files", files_seeds())):
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
