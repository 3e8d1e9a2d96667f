"""Ethernet frames made by hand, for the tests.

`tcp` builds a whole frame in one call. The layers it is made of (`ethernet`, `vlan`, `ipv4`, `ipv6`,
`tcp_segment`) can be put together in other ways. Lengths and checksums are right unless a test
overrides them, and every field can be overridden.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

__all__ = [
    "CLIENT",
    "CLIENT_HELLO",
    "CLIENT_MAC",
    "SERVER",
    "SERVER_MAC",
    "answer",
    "checksum",
    "ethernet",
    "ipv4",
    "ipv6",
    "pcap",
    "pppoe",
    "tcp",
    "tcp6",
    "tcp_segment",
    "vlan",
]

CLIENT = ("10.0.0.1", 40000)
SERVER = ("10.0.0.2", 443)
CLIENT_MAC = "02:00:00:00:00:01"
SERVER_MAC = "02:00:00:00:00:02"

CLIENT_HELLO = bytes.fromhex("16 0301 0010 01 00000c 0303") + bytes(10)
"""The 21 bytes of a TLS record that a ClientHello begins; its length is right, its body is not filled in."""

FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20, "E": 0x40, "C": 0x80}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over data that already holds its right checksum."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(
    payload: bytes = b"",
    *,
    src_mac: str = CLIENT_MAC,
    dst_mac: str = SERVER_MAC,
    ethertype: int = 0x0800,
    pad: bool = False,
) -> bytes:
    """An Ethernet frame, without its check sequence; `pad` fills it up to the 60 bytes of the shortest."""
    addresses = bytes.fromhex((dst_mac + src_mac).replace(":", ""))
    frame = addresses + struct.pack("!H", ethertype) + payload
    return frame.ljust(60, b"\0") if pad else frame


def vlan(frame: bytes, vid: int = 1, *, tpid: int = 0x8100, priority: int = 0) -> bytes:
    """A frame with one more VLAN tag, the outermost."""
    return frame[:12] + struct.pack("!HH", tpid, priority << 13 | vid) + frame[12:]


def pppoe(
    frame: bytes, *, protocol: int | None = None, version_type: int = 0x11, code: int = 0, session: int = 7
) -> bytes:
    """A frame's packet in a PPPoE session (RFC 2516); PPP's protocol is that of the EtherType by default."""
    if protocol is None:
        protocol = {0x0800: 0x0021, 0x86DD: 0x0057}.get(int.from_bytes(frame[12:14], "big"), 0)
    header = struct.pack("!HBBHHH", 0x8864, version_type, code, session, len(frame) - 12, protocol)
    return frame[:12] + header + frame[14:]


def ipv4(
    payload: bytes = b"",
    *,
    src: str = CLIENT[0],
    dst: str = SERVER[0],
    proto: int = 6,
    ttl: int = 64,
    options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    tos: int = 0,
    total_length: int | None = None,
    ident: int = 0,
    dont_fragment: bool = False,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    header_checksum: int | None = None,
) -> bytes:
    """An IPv4 packet. `options` are padded to whole words; `ihl` counts words, `fragment_offset` 8 bytes."""
    options += b"\0" * (-len(options) % 4)
    if ihl is None:
        ihl = 5 + len(options) // 4
    if total_length is None:
        total_length = 20 + len(options) + len(payload)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | ihl,
        tos,
        total_length,
        ident,
        dont_fragment << 14 | more_fragments << 13 | fragment_offset,
        ttl,
        proto,
        0,
        ipaddress.IPv4Address(src).packed,
        ipaddress.IPv4Address(dst).packed,
    )
    if header_checksum is None:
        header_checksum = checksum(header + options)
    return header[:10] + struct.pack("!H", header_checksum) + header[12:] + options + payload


def ipv6(
    payload: bytes = b"",
    *,
    src: str = "2001:db8::1",
    dst: str = "2001:db8::2",
    next_header: int = 6,
    hop_limit: int = 64,
    version: int = 6,
    traffic_class: int = 0,
    flow_label: int = 0,
    payload_length: int | None = None,
) -> bytes:
    """An IPv6 packet; extension headers are the caller's, in front of `payload`."""
    return (
        struct.pack(
            "!IHBB",
            version << 28 | traffic_class << 20 | flow_label,
            len(payload) if payload_length is None else payload_length,
            next_header,
            hop_limit,
        )
        + ipaddress.IPv6Address(src).packed
        + ipaddress.IPv6Address(dst).packed
        + payload
    )


def tcp_segment(
    flags: str = "",
    payload: bytes = b"",
    *,
    src: str = CLIENT[0],
    sport: int = CLIENT[1],
    dst: str = SERVER[0],
    dport: int = SERVER[1],
    seq: int = 0,
    ack: int = 0,
    options: bytes = b"",
    data_offset: int | None = None,
    window: int = 65535,
    urgent: int = 0,
    tcp_checksum: int | None = None,
) -> bytes:
    """A TCP header and its payload. `flags` are letters of "FSRPAUEC", `data_offset` counts words.

    The addresses, of either family, are needed for the checksum alone.
    """
    options += b"\0" * (-len(options) % 4)
    if data_offset is None:
        data_offset = 5 + len(options) // 4
    bits = sum(FLAGS[letter] for letter in set(flags))
    header = struct.pack(
        "!HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, data_offset << 4, bits, window, 0, urgent
    )
    if tcp_checksum is None:
        length = len(header) + len(options) + len(payload)
        addresses = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
        # Zeros in front do not change a sum, so this serves the longer fields of IPv6 as well.
        pseudo_header = addresses + struct.pack("!HH", 6, length)
        tcp_checksum = checksum(pseudo_header + header + options + payload)
    return header[:16] + struct.pack("!H", tcp_checksum) + header[18:] + options + payload


def tcp(
    flags: str = "",
    payload: bytes = b"",
    *,
    src: str = CLIENT[0],
    sport: int = CLIENT[1],
    dst: str = SERVER[0],
    dport: int = SERVER[1],
    seq: int = 0,
    ack: int = 0,
    options: bytes = b"",
    data_offset: int | None = None,
    window: int = 65535,
    urgent: int = 0,
    tcp_checksum: int | None = None,
    proto: int = 6,
    ttl: int = 64,
    ip_options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    tos: int = 0,
    total_length: int | None = None,
    ident: int = 0,
    dont_fragment: bool = False,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    header_checksum: int | None = None,
    src_mac: str = CLIENT_MAC,
    dst_mac: str = SERVER_MAC,
    ethertype: int = 0x0800,
    pad: bool = False,
) -> bytes:
    """A TCP segment over IPv4 in an Ethernet frame, by default from `CLIENT` to `SERVER`.

    The arguments are those of `tcp_segment`, `ipv4` (its `options` are `ip_options`) and `ethernet`.
    """
    segment = tcp_segment(
        flags,
        payload,
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        seq=seq,
        ack=ack,
        options=options,
        data_offset=data_offset,
        window=window,
        urgent=urgent,
        tcp_checksum=tcp_checksum,
    )
    packet = ipv4(
        segment,
        src=src,
        dst=dst,
        proto=proto,
        ttl=ttl,
        options=ip_options,
        version=version,
        ihl=ihl,
        tos=tos,
        total_length=total_length,
        ident=ident,
        dont_fragment=dont_fragment,
        more_fragments=more_fragments,
        fragment_offset=fragment_offset,
        header_checksum=header_checksum,
    )
    return ethernet(packet, src_mac=src_mac, dst_mac=dst_mac, ethertype=ethertype, pad=pad)


def answer(flags: str = "", payload: bytes = b"", *, ttl: int = 64, seq: int = 0, pad: bool = False) -> bytes:
    """A TCP segment the other way: from `SERVER` to `CLIENT`."""
    return tcp(
        flags,
        payload,
        src=SERVER[0],
        sport=SERVER[1],
        dst=CLIENT[0],
        dport=CLIENT[1],
        src_mac=SERVER_MAC,
        dst_mac=CLIENT_MAC,
        ttl=ttl,
        seq=seq,
        pad=pad,
    )


def tcp6(
    flags: str = "",
    payload: bytes = b"",
    *,
    src: str = "2001:db8::1",
    sport: int = CLIENT[1],
    dst: str = "2001:db8::2",
    dport: int = SERVER[1],
    seq: int = 0,
    ack: int = 0,
    options: bytes = b"",
    hop_limit: int = 64,
    src_mac: str = CLIENT_MAC,
    dst_mac: str = SERVER_MAC,
) -> bytes:
    """A TCP segment over IPv6 in an Ethernet frame; for what else there is, put the layers together."""
    segment = tcp_segment(
        flags,
        payload,
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        seq=seq,
        ack=ack,
        options=options,
    )
    packet = ipv6(segment, src=src, dst=dst, hop_limit=hop_limit)
    return ethernet(packet, src_mac=src_mac, dst_mac=dst_mac, ethertype=0x86DD)


def pcap(
    packets: Iterable[tuple[int, bytes]],
    *,
    byte_order: str = "<",
    nanoseconds: bool = True,
    link_type: int = 1,
    snap_length: int = 262144,
) -> bytes:
    """A classic pcap file of (time in nanoseconds, frame). `byte_order` is that of `struct`: "<" or ">".

    Frames are cut to `snap_length`; in microseconds, times are cut to whole ones.
    """
    magic, ns_per_tick = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    data = struct.pack(byte_order + "IHHiIII", magic, 2, 4, 0, 0, snap_length, link_type)
    for time_ns, frame in packets:
        seconds, rest_ns = divmod(time_ns, 1_000_000_000)
        kept = frame[:snap_length]
        data += (
            struct.pack(byte_order + "IIII", seconds, rest_ns // ns_per_tick, len(kept), len(frame)) + kept
        )
    return data
