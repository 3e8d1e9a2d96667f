"""The independent referee: connections and their features, recomputed from raw packet bytes.

It shares no code with the product and uses the standard library only. It is written to be read against
the specification, rule by rule, so it is slow on purpose: times are integer nanoseconds, every quotient is
an exact fraction, and nothing is rounded before the last step.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "FATES",
    "Connection",
    "Oracle",
    "Record",
    "Side",
    "connections",
    "counters",
    "read_pcap",
    "read_records",
]

FATES = (
    "tracked",  # counted in a connection
    "untracked",  # a valid TCP segment that has no entry and starts none
    "not_ip",  # neither IPv4 nor IPv6, looked for behind at most two VLAN tags and then PPPoE
    "ipv4",  # where it is not asked for
    "ipv6",  # where it is not asked for
    "not_tcp",  # also what lies behind more IPv6 extension headers, or longer ones, than are looked behind
    "fragment",  # a fragment after the first: it has no ports
    "malformed",  # a header that contradicts itself
    "truncated",  # a header cut short by the end of the captured bytes
)
"""What can become of a packet. Each packet has exactly one fate, so the counts add up to the packets."""

ETHERNET = 14  # bytes of each header in its shortest form
VLAN_TAG = 4
PPPOE = 8  # with the two bytes that say what PPP carries
IPV4 = 20
IPV6 = 40
EXTENSION = 8  # the least of an IPv6 extension header
TCP = 20

MAX_VLAN_TAGS = 2
MAX_EXTENSIONS = 8
MAX_EXTENSION_BYTES = 1024  # of all of them
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPES_VLAN = (0x8100, 0x88A8, 0x9100)
ETHERTYPE_PPPOE = 0x8864
PPP = {0x0021: ETHERTYPE_IPV4, 0x0057: ETHERTYPE_IPV6}
FRAGMENT_HEADER = 44
AUTHENTICATION_HEADER = 51
EXTENSIONS = {
    0: "hop-by-hop options",
    43: "routing",
    FRAGMENT_HEADER: "fragment",
    AUTHENTICATION_HEADER: "authentication",
    60: "destination options",
    135: "mobility",
    139: "host identity protocol",
    140: "shim6",
}
"""The IPv6 extension headers that say how long they are; "no next header" and ESP do not lead to TCP."""
PROTOCOL_TCP = 6
FRAGMENT_OFFSET_MASK = 0x1FFF

FIN = 0x01
SYN = 0x02
RST = 0x04
ACK = 0x10

CLIENT_HELLO = {0: 22, 1: 3, 5: 1}
"""Stream offset -> byte: content type handshake, major version 3, handshake type ClientHello."""

ESTABLISH_TIMEOUT_MS = 5000  # while one segment has been seen
INACTIVITY_TIMEOUT_MS = 300_000  # afterwards

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

Endpoint = tuple[str, int]  # address, port


# --- captures -------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """One packet of a capture: its time, the bytes that were kept, and how many there were."""

    time_ns: int
    frame: bytes
    original_length: int


def read_records(path: str | Path) -> Iterator[Record]:
    """Read a classic pcap file of Ethernet frames, of either byte order, in microseconds or nanoseconds.

    A last record that is cut short ends the iteration.

    Raises
    ------
    ValueError
        If the file is no classic pcap, or its link type is not Ethernet.
    """
    data = Path(path).read_bytes()
    formats = {
        b"\xd4\xc3\xb2\xa1": ("<", 1000),
        b"\xa1\xb2\xc3\xd4": (">", 1000),
        b"\x4d\x3c\xb2\xa1": ("<", 1),
        b"\xa1\xb2\x3c\x4d": (">", 1),
    }
    if data[:4] not in formats or len(data) < 24:
        raise ValueError(f"{path}: not a classic pcap file")
    order, ns_per_tick = formats[data[:4]]
    # The six bits on top say whether and how long a frame check sequence follows each frame.
    link_type = struct.unpack_from(order + "I", data, 20)[0] & 0x03FFFFFF
    if link_type != 1:
        raise ValueError(f"{path}: link type {link_type}, only Ethernet (1) is read")
    position = 24
    while position + 16 <= len(data):
        seconds, ticks, captured, original = struct.unpack_from(order + "IIII", data, position)
        position += 16
        if position + captured > len(data):
            return
        frame = data[position : position + captured]
        position += captured
        yield Record(seconds * NS_PER_S + ticks * ns_per_tick, frame, original)


def read_pcap(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Read a capture as (time in nanoseconds, frame); see `read_records`."""
    for record in read_records(path):
        yield record.time_ns, record.frame


# --- one packet -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """What one TCP segment says."""

    src_mac: str
    src: Endpoint
    dst: Endpoint
    ip_bytes: int  # IPv4: the total length; IPv6: 40 and the payload length
    ttl: int  # or hop limit
    seq: int
    flags: int
    payload: bytes  # as far as it was captured


def decode(frame: bytes, versions: str = "4") -> Segment | str:
    """The TCP segment in an Ethernet frame, or the fate of a frame that holds none.

    `versions` of IP are looked at: those whose digit is in it.
    """
    if len(frame) < ETHERNET:
        return "truncated"
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    ip = ETHERNET
    for _ in range(MAX_VLAN_TAGS):
        if ethertype in ETHERTYPES_VLAN:
            if len(frame) < ip + VLAN_TAG:
                return "truncated"
            ethertype = struct.unpack_from("!H", frame, ip + 2)[0]
            ip += VLAN_TAG
    if ethertype == ETHERTYPE_PPPOE:
        if len(frame) < ip + PPPOE:
            return "truncated"
        version_type, code, protocol = struct.unpack_from("!BBxxxxH", frame, ip)
        ethertype = PPP.get(protocol, 0) if (version_type, code) == (0x11, 0) else 0
        ip += PPPOE
    if ethertype == ETHERTYPE_IPV4:
        return decode_ipv4(frame, ip) if "4" in versions else "ipv4"
    if ethertype == ETHERTYPE_IPV6:
        return decode_ipv6(frame, ip) if "6" in versions else "ipv6"
    return "not_ip"


def decode_ipv4(frame: bytes, ip: int) -> Segment | str:
    if len(frame) < ip + IPV4:
        return "truncated"
    version = frame[ip] >> 4
    ip_header = (frame[ip] & 0x0F) * 4
    total_length, fragment_field, ttl, protocol = struct.unpack_from("!2xH2xHBB", frame, ip)
    if version != 4 or ip_header < IPV4:
        return "malformed"
    if total_length < ip_header:
        return "malformed"
    if protocol != PROTOCOL_TCP:
        return "not_tcp"
    if fragment_field & FRAGMENT_OFFSET_MASK:
        return "fragment"
    source, destination = (".".join(map(str, frame[at : at + 4])) for at in (ip + 12, ip + 16))
    return decode_tcp(frame, ip, ip_header, total_length, ttl, source, destination)


def decode_ipv6(frame: bytes, ip: int) -> Segment | str:
    if len(frame) < ip + IPV6:
        return "truncated"
    if frame[ip] >> 4 != 6:
        return "malformed"
    payload_length, following, hop_limit = struct.unpack_from("!HBB", frame, ip + 4)
    size = IPV6 + payload_length
    headers = IPV6
    for _ in range(MAX_EXTENSIONS):
        if following not in EXTENSIONS:
            break
        if size < headers + EXTENSION:
            return "malformed"
        if len(frame) < ip + headers + EXTENSION:
            return "truncated"
        after, length, fragment_field = struct.unpack_from("!BBH", frame, ip + headers)
        if following == FRAGMENT_HEADER:
            if fragment_field >> 3:
                return "fragment"
            headers += EXTENSION
        elif following == AUTHENTICATION_HEADER:
            headers += 4 * (length + 2)
        else:
            headers += 8 * (length + 1)
        if headers - IPV6 > MAX_EXTENSION_BYTES:
            return "not_tcp"
        following = after
    if following != PROTOCOL_TCP:
        return "not_tcp"
    source, destination = (str(ipaddress.IPv6Address(frame[at : at + 16])) for at in (ip + 8, ip + 24))
    return decode_tcp(frame, ip, headers, size, hop_limit, source, destination)


def decode_tcp(
    frame: bytes, ip: int, ip_headers: int, ip_bytes: int, ttl: int, source: str, destination: str
) -> Segment | str:
    if ip_bytes < ip_headers + TCP:
        return "malformed"
    tcp = ip + ip_headers
    if len(frame) < tcp + TCP:
        return "truncated"
    src_port, dst_port, seq = struct.unpack_from("!HHI", frame, tcp)
    tcp_header = (frame[tcp + 12] >> 4) * 4
    if tcp_header < TCP or ip_bytes < ip_headers + tcp_header:
        return "malformed"
    if len(frame) < tcp + tcp_header:
        return "truncated"
    return Segment(
        src_mac=frame[6:12].hex(":"),
        src=(source, src_port),
        dst=(destination, dst_port),
        ip_bytes=ip_bytes,
        ttl=ttl,
        seq=seq,
        flags=frame[tcp + 13],
        payload=frame[tcp + tcp_header : ip + ip_bytes],
    )


# --- one connection -------------------------------------------------------------------------------------


@dataclass
class Side:
    """What one end of a connection has sent: `s` is the originator, `d` the responder."""

    packets: int = 0
    bytes: int = 0
    ttl_sum: int = 0
    first_ns: int | None = None  # of the first segment to arrive
    last_ns: int | None = None  # the latest time of any segment

    def ttl_mean(self) -> Fraction | None:
        return Fraction(self.ttl_sum, self.packets) if self.packets else None

    def bytes_mean(self) -> Fraction | None:
        return Fraction(self.bytes, self.packets) if self.packets else None

    def load(self, dur: Fraction) -> Fraction | None:
        return 8 * self.bytes / dur if dur else None

    def iat_mean(self) -> Fraction | None:
        if self.packets < 2 or self.first_ns is None or self.last_ns is None:
            return None
        return seconds_between(self.first_ns, self.last_ns) / (self.packets - 1)


@dataclass
class Connection:
    """One finished TCP connection, in raw integers."""

    start_ns: int
    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int
    s_mac: str
    tls: bool = False
    reason: str = ""
    s: Side = field(default_factory=Side)
    d: Side = field(default_factory=Side)
    syn_ack_ns: int | None = None
    ack_ns: int | None = None

    @property
    def last_ns(self) -> int:
        """The latest time of a segment of either side."""
        return max(side.last_ns for side in (self.s, self.d) if side.last_ns is not None)

    def features(self) -> dict[str, float | None]:
        """The 17 features by name, in their order; None where one is undefined."""
        dur = seconds_between(self.start_ns, self.last_ns)
        syn_ack = None if self.syn_ack_ns is None else seconds_between(self.start_ns, self.syn_ack_ns)
        ack_dat = None
        if self.syn_ack_ns is not None and self.ack_ns is not None:
            ack_dat = seconds_between(self.syn_ack_ns, self.ack_ns)
        exact: dict[str, Fraction | int | None] = {
            "dur": dur,
            "proto": PROTOCOL_TCP,
            "s_bytes_sum": self.s.bytes,
            "d_bytes_sum": self.d.bytes,
            "s_ttl_mean": self.s.ttl_mean(),
            "d_ttl_mean": self.d.ttl_mean(),
            "s_load": self.s.load(dur),
            "d_load": self.d.load(dur),
            "s_pkt_cnt": self.s.packets,
            "d_pkt_cnt": self.d.packets,
            "s_bytes_mean": self.s.bytes_mean(),
            "d_bytes_mean": self.d.bytes_mean(),
            "s_iat_mean": self.s.iat_mean(),
            "d_iat_mean": self.d.iat_mean(),
            "tcp_rtt": None if syn_ack is None or ack_dat is None else syn_ack + ack_dat,
            "syn_ack": syn_ack,
            "ack_dat": ack_dat,
        }
        return {name: None if value is None else float(value) for name, value in exact.items()}


def seconds_between(start_ns: int, end_ns: int) -> Fraction:
    return Fraction(end_ns - start_ns, NS_PER_S)


# --- all of them ----------------------------------------------------------------------------------------


class Entry:
    """A connection that is still open, and what must be known of it until it ends."""

    def __init__(self, time_ns: int, syn: Segment) -> None:
        self.connection = Connection(time_ns, *syn.src, *syn.dst, s_mac=syn.src_mac)
        self.originator = syn.src
        self.first_byte_seq = syn.seq + 1  # the SYN itself takes one number
        self.fin_from: set[str] = set()
        self.hello_seen: set[int] = set()
        self.hello_wrong = False

    def add(self, time_ns: int, segment: Segment) -> str | None:
        """Count a segment; the reason if it ends the connection."""
        connection = self.connection
        # Where both ends are one, everything is the originator's.
        from_originator = segment.src == self.originator
        side = connection.s if from_originator else connection.d

        side.packets += 1
        side.bytes += segment.ip_bytes
        side.ttl_sum += segment.ttl
        if side.first_ns is None:
            side.first_ns = time_ns
        if side.last_ns is None or side.last_ns < time_ns:
            side.last_ns = time_ns

        if from_originator:
            if connection.syn_ack_ns is not None and connection.ack_ns is None and segment.flags & ACK:
                connection.ack_ns = time_ns
            self.look_for_hello(segment)
        elif connection.syn_ack_ns is None and segment.flags & SYN and segment.flags & ACK:
            connection.syn_ack_ns = time_ns

        if segment.flags & FIN:
            self.fin_from.add("s" if from_originator else "d")
        if segment.flags & RST:
            return "rst"
        if self.fin_from == {"s", "d"}:
            return "fin"
        return None

    def look_for_hello(self, segment: Segment) -> None:
        """Look at the three bytes of the originator's stream that tell a TLS ClientHello."""
        if self.hello_seen == set(CLIENT_HELLO):
            return
        first_payload_seq = segment.seq + (1 if segment.flags & SYN else 0)
        start = signed32(first_payload_seq - self.first_byte_seq)
        if not 0 <= start <= max(CLIENT_HELLO):
            return
        for offset, byte in enumerate(segment.payload, start):
            if offset in CLIENT_HELLO:
                self.hello_seen.add(offset)
                if byte != CLIENT_HELLO[offset]:
                    self.hello_wrong = True
        self.connection.tls = self.hello_seen == set(CLIENT_HELLO) and not self.hello_wrong

    def timed_out(self, now_ns: int, establish_ms: int, inactivity_ms: int) -> str | None:
        """The reason if the connection has been silent for longer than its timeout at `now_ns`."""
        only_the_first = self.connection.s.packets + self.connection.d.packets == 1
        timeout_ms = establish_ms if only_the_first else inactivity_ms
        if now_ns - self.connection.last_ns > timeout_ms * NS_PER_MS:
            return "establish" if only_the_first else "idle"
        return None


def signed32(value: int) -> int:
    """A difference of sequence numbers: modulo 2^32, from -2^31 to 2^31 - 1."""
    return (value + 2**31) % 2**32 - 2**31


class Oracle:
    """Takes packets in the order of their arrival; tells each one's fate and the connections they make."""

    def __init__(
        self,
        *,
        establish_timeout_ms: int = ESTABLISH_TIMEOUT_MS,
        inactivity_timeout_ms: int = INACTIVITY_TIMEOUT_MS,
        versions: str = "4",
    ) -> None:
        self.versions = versions
        self.establish_timeout_ms = establish_timeout_ms
        self.inactivity_timeout_ms = inactivity_timeout_ms
        self.counters = dict.fromkeys(FATES, 0)
        self.ended: list[Connection] = []  # in the order of their ends
        self.open: dict[frozenset[Endpoint], Entry] = {}  # in the order of their starts
        self.latest_ns = 0

    def packet(self, time_ns: int, frame: bytes) -> str:
        """Take one packet and tell its fate."""
        self.latest_ns = max(self.latest_ns, time_ns)
        segment = decode(frame, self.versions)
        fate = segment if isinstance(segment, str) else self.segment(time_ns, segment)
        self.counters[fate] += 1
        return fate

    def segment(self, time_ns: int, segment: Segment) -> str:
        key = frozenset((segment.src, segment.dst))
        entry = self.open.get(key)
        if entry is not None:
            reason = self.timed_out(entry, time_ns)
            if reason is not None:
                self.end(key, reason)
                entry = None
        if entry is None:
            if not segment.flags & SYN or segment.flags & (ACK | RST):
                return "untracked"
            entry = self.open[key] = Entry(time_ns, segment)
        reason = entry.add(time_ns, segment)
        if reason is not None:
            self.end(key, reason)
        return "tracked"

    def timed_out(self, entry: Entry, now_ns: int) -> str | None:
        return entry.timed_out(now_ns, self.establish_timeout_ms, self.inactivity_timeout_ms)

    def end(self, key: frozenset[Endpoint], reason: str) -> None:
        connection = self.open.pop(key).connection
        connection.reason = reason
        self.ended.append(connection)

    def finish(self) -> list[Connection]:
        """End what is still open, as of the latest time seen, and return every connection.

        Those that have timed out by then come before those that are merely shut down.
        """
        for key, entry in list(self.open.items()):
            reason = self.timed_out(entry, self.latest_ns)
            if reason is not None:
                self.end(key, reason)
        for key in list(self.open):
            self.end(key, "shutdown")
        return self.ended


def connections(
    packets: Iterable[tuple[int, bytes]],
    *,
    establish_timeout_ms: int = ESTABLISH_TIMEOUT_MS,
    inactivity_timeout_ms: int = INACTIVITY_TIMEOUT_MS,
    tls_only: bool = False,
    versions: str = "4",
) -> list[Connection]:
    """Every connection in a sequence of (time in nanoseconds, Ethernet frame), in the order of their ends."""
    oracle = Oracle(
        establish_timeout_ms=establish_timeout_ms,
        inactivity_timeout_ms=inactivity_timeout_ms,
        versions=versions,
    )
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    return [connection for connection in oracle.finish() if connection.tls or not tls_only]


def counters(
    packets: Iterable[tuple[int, bytes]],
    *,
    establish_timeout_ms: int = ESTABLISH_TIMEOUT_MS,
    inactivity_timeout_ms: int = INACTIVITY_TIMEOUT_MS,
    versions: str = "4",
) -> dict[str, int]:
    """How many packets of a sequence met each fate; every fate is named, and they add up to the packets."""
    oracle = Oracle(
        establish_timeout_ms=establish_timeout_ms,
        inactivity_timeout_ms=inactivity_timeout_ms,
        versions=versions,
    )
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    return oracle.counters
