"""All real captures as one, what every packet of it is to flowml, and what flowml makes of it.

Other tools need a second to start or to end, so they get few captures: of up to 256 of the real ones, one
after the other in time, each in address ranges of its own.
"""

from __future__ import annotations

import functools
import struct
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.bench.merged import in_range
from tests.captures.common import Record, extracted, record_of
from tests.conftest import captures
from tests.frames import pcap
from tests.oracle import ACK, NS_PER_S, RST, SYN, Connection, Endpoint, Oracle, Segment, decode, read_pcap

__all__ = ["AT_ONCE", "BEGIN_NS", "Capture", "Packet", "merged"]

AT_ONCE = 256  # captures in one: as many as there are address ranges
GAP_NS = NS_PER_S
BEGIN_NS = 10**9 * NS_PER_S
"""The time of the earliest packet."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A TCP segment, and the connection of the oracle's that it is counted in."""

    number: int
    """In the capture, from 1."""
    time_ns: int
    segment: Segment
    ack: int
    frame_bytes: int
    connection: int | None
    """Where in `Capture.connections`; None: in none."""

    @property
    def opens(self) -> bool:
        """SYN alone."""
        return self.segment.flags & (SYN | ACK | RST) == SYN

    @property
    def answers(self) -> bool:
        """SYN and ACK."""
        return self.segment.flags & (SYN | ACK) == SYN | ACK

    @property
    def acknowledges(self) -> bool:
        """ACK without SYN."""
        return self.segment.flags & (SYN | ACK) == ACK

    @property
    def resets(self) -> bool:
        return bool(self.segment.flags & RST)


@dataclass
class Capture:
    """A merged capture, by tuple."""

    path: Path
    packets: int = 0
    tuples: dict[frozenset[Endpoint], list[Packet]] = field(default_factory=lambda: defaultdict(list))
    connections: list[Connection] = field(default_factory=list)
    lines: list[Record] = field(default_factory=list)
    """What flowml makes of each, in the same order."""


@functools.cache
def merged() -> list[Capture]:
    """All of them, made once; the files go with the process."""
    folder = Path(_folder().name)
    paths = captures()
    parts = [paths[at : at + AT_ONCE] for at in range(0, len(paths), AT_ONCE)]
    return [_capture(folder / f"{number}.pcap", part) for number, part in enumerate(parts)]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="flowml-referees-")


def _capture(path: Path, parts: list[Path]) -> Capture:
    with path.open("wb") as file:
        file.write(pcap([], nanoseconds=False))
        for time_ns, frame in _one_after_the_other(parts):
            seconds, rest_ns = divmod(time_ns, NS_PER_S)
            file.write(struct.pack("<IIII", seconds, rest_ns // 1000, len(frame), len(frame)) + frame)
    capture = Capture(path)
    _judge(capture)
    # The oracle has them in the order of their ends, flowml in that of their starts.
    lines, _, trouble = extracted(path)
    assert trouble == ""
    by_start = {_key(one): one for one in lines}
    capture.lines = [by_start[_key(record_of(one))] for one in capture.connections]
    assert len(by_start) == len(lines) == len(capture.lines)
    return capture


def _key(one: Record) -> tuple[object, ...]:
    return tuple(one[name] for name in ("start", "src_ip", "src_port", "dst_ip", "dst_port"))


def _one_after_the_other(parts: list[Path]) -> Iterator[tuple[int, bytes]]:
    begin = BEGIN_NS
    for number, path in enumerate(parts):
        packets = list(read_pcap(path))
        first = min(time_ns for time_ns, _ in packets)
        for time_ns, frame in packets:
            yield begin + time_ns - first, in_range(frame, number)
        begin += max(time_ns for time_ns, _ in packets) - first + GAP_NS


def _judge(capture: Capture) -> None:
    """Has the oracle say of every packet which connection it is counted in."""
    oracle = Oracle()
    seen: list[tuple[Packet, Connection | None]] = []
    for number, (time_ns, frame) in enumerate(read_pcap(capture.path), 1):
        capture.packets = number
        fate = oracle.packet(time_ns, frame)
        segment = decode(frame)
        if isinstance(segment, str):
            continue
        tcp = frame.index(struct.pack("!HHI", segment.src[1], segment.dst[1], segment.seq), 34)
        ack = int.from_bytes(frame[tcp + 8 : tcp + 12], "big")
        entry = oracle.open.get(frozenset((segment.src, segment.dst)))
        counted = None
        if fate == "tracked":  # what it ended is the last to have ended
            counted = entry.connection if entry else oracle.ended[-1]
        seen.append((Packet(number, time_ns, segment, ack, len(frame), None), counted))
    capture.connections = oracle.finish()
    places = {id(one): place for place, one in enumerate(capture.connections)}
    for packet, counted in seen:
        place = None if counted is None else places[id(counted)]
        key = frozenset((packet.segment.src, packet.segment.dst))
        capture.tuples[key].append(replace(packet, connection=place))
