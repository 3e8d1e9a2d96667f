"""What captures are written in: pcapng block by block, and the link headers besides Ethernet's.

The classic format is `tests.frames.pcap`. Sources: the pcapng draft (draft-ietf-opsawg-pcapng) and the
link-layer header types of tcpdump.org.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.oracle import NS_PER_S

__all__ = [
    "LINKS",
    "Interface",
    "Link",
    "block",
    "enhanced_packet",
    "interface_description",
    "packet_block",
    "pcapng",
    "section_header",
    "simple_packet",
]

SECTION_HEADER, INTERFACE_DESCRIPTION = 0x0A0D0D0A, 1
PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 2, 3, 6
END_OF_OPTIONS, IF_TSRESOL, IF_TSOFFSET = 0, 9, 14
BINARY = 0x80  # in if_tsresol: the resolution is a power of two, not of ten


# --- pcapng ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interface:
    """What an interface's description says."""

    link_type: int = 1
    snap_length: int = 0
    """0: none."""
    resolution: int | None = None
    """if_tsresol: -log10 of a tick's seconds, or -log2 with `BINARY`; None: left out, microseconds."""
    offset_s: int | None = None
    """if_tsoffset."""

    def ticks_a_second(self) -> int:
        if self.resolution is None:
            return 10**6
        return int(2 ** (self.resolution & ~BINARY) if self.resolution & BINARY else 10**self.resolution)

    def ticks(self, time_ns: int) -> int:
        """A time as the interface has it in its packets, cut to whole ticks."""
        since = time_ns - (self.offset_s or 0) * NS_PER_S
        return since * self.ticks_a_second() // NS_PER_S

    def as_kept(self, time_ns: int) -> int:
        """The time that is left of one: of the whole tick, cut to whole nanoseconds."""
        return self.ticks(time_ns) * NS_PER_S // self.ticks_a_second() + (self.offset_s or 0) * NS_PER_S


def block(order: str, kind: int, body: bytes) -> bytes:
    """A block of any kind. `order` is that of `struct`: "<" or ">"."""
    body = _padded(body)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _options(order: str, options: Iterable[tuple[int, bytes]]) -> bytes:
    data = b"".join(struct.pack(order + "HH", code, len(value)) + _padded(value) for code, value in options)
    return data + struct.pack(order + "HH", END_OF_OPTIONS, 0) if data else b""


def section_header(order: str = "<") -> bytes:
    """Begins a section, of unknown length."""
    return block(order, SECTION_HEADER, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface_description(interface: Interface, order: str = "<") -> bytes:
    options = []
    if interface.resolution is not None:
        options.append((IF_TSRESOL, bytes([interface.resolution])))
    if interface.offset_s is not None:
        options.append((IF_TSOFFSET, struct.pack(order + "q", interface.offset_s)))
    fixed = struct.pack(order + "HHI", interface.link_type, 0, interface.snap_length)
    return block(order, INTERFACE_DESCRIPTION, fixed + _options(order, options))


def enhanced_packet(number: int, ticks: int, frame: bytes, order: str = "<") -> bytes:
    """A packet of the section's interface of that number, from 0."""
    fixed = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, ENHANCED_PACKET, fixed + frame)


def packet_block(number: int, ticks: int, frame: bytes, order: str = "<") -> bytes:
    """The same in the block that older writers use."""
    high, low = ticks >> 32, ticks & 0xFFFFFFFF
    fixed = struct.pack(order + "HHIIII", number, 0xFFFF, high, low, len(frame), len(frame))
    return block(order, PACKET, fixed + frame)


def simple_packet(frame: bytes, order: str = "<") -> bytes:
    """A packet of the first interface, without a time."""
    return block(order, SIMPLE_PACKET, struct.pack(order + "I", len(frame)) + frame)


def pcapng(
    packets: Iterable[tuple[int, bytes]],
    interfaces: tuple[Interface, ...] = (Interface(),),
    *,
    order: str = "<",
    interface_of: Callable[[int], int] | None = None,
) -> bytes:
    """One section of (time in nanoseconds, frame).

    `interface_of` tells from a packet's number which interface it came in at; by default they take turns.
    """
    data = [section_header(order), *(interface_description(one, order) for one in interfaces)]
    for count, (time_ns, frame) in enumerate(packets):
        number = interface_of(count) if interface_of else count % len(interfaces)
        data.append(enhanced_packet(number, interfaces[number].ticks(time_ns), frame, order))
    return b"".join(data)


# --- links ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A link type, and how it says what an Ethernet frame says."""

    name: str
    link_type: int
    has_mac: bool
    any_protocol: bool
    """Whether it carries what is neither IPv4 nor IPv6."""
    wrap: Callable[[bytes], bytes]

    def carries(self, frame: bytes) -> bool:
        return self.any_protocol or _ip(frame) is not None


def _ip(frame: bytes) -> tuple[int, bytes] | None:
    """Version and packet of a frame without tags, or behind them; None if it is not IP."""
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    version = {b"\x08\x00": 4, b"\x86\xdd": 6}.get(frame[at : at + 2])
    return None if version is None else (version, frame[at + 2 :])


def _raw(frame: bytes) -> bytes:
    found = _ip(frame)
    assert found is not None
    return found[1]


def _before_ip(of_ipv4: bytes, of_ipv6: bytes) -> Callable[[bytes], bytes]:
    def wrap(frame: bytes) -> bytes:
        found = _ip(frame)
        assert found is not None
        version, packet = found
        return (of_ipv4 if version == 4 else of_ipv6) + packet

    return wrap


def _cooked(frame: bytes) -> bytes:
    """Unicast to us, of an Ethernet (ARPHRD 1), 6 bytes of address in 8, then the EtherType and its data."""
    return struct.pack("!HHH", 0, 1, 6) + frame[6:12] + bytes(2) + frame[12:]


def _cooked_2(frame: bytes) -> bytes:
    """As `_cooked`, with the EtherType in front and the number of the interface."""
    header = frame[12:14] + bytes(2) + struct.pack("!IHBB", 2, 1, 0, 6) + frame[6:12] + bytes(2)
    return header + frame[14:]


LINKS = (
    Link("Ethernet", 1, True, True, lambda frame: frame),
    Link("SLL", 113, True, True, _cooked),
    Link("SLL2", 276, True, True, _cooked_2),
    Link("RAW", 101, False, False, _raw),
    Link("IPV4", 228, False, False, _raw),
    Link("NULL-little", 0, False, False, _before_ip(struct.pack("<I", 2), struct.pack("<I", 24))),
    Link("NULL-big", 0, False, False, _before_ip(struct.pack(">I", 2), struct.pack(">I", 30))),
    Link("LOOP", 108, False, False, _before_ip(struct.pack(">I", 2), struct.pack(">I", 28))),
    Link("PPP", 9, False, False, _before_ip(b"\x00\x21", b"\x00\x57")),
    Link("PPP-HDLC", 9, False, False, _before_ip(b"\xff\x03\x00\x21", b"\xff\x03\x00\x57")),
)
"""Every link that flowml reads, in each of its forms."""
