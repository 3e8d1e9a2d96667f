"""tshark beside flowml, over all real captures: equal where both mean the same, and nowhere else by chance.

What tshark counts in a stream, as `streams_of` has it:

- It begins with the first packet of a tuple, whatever it is, and with a SYN of another sequence number than
  the one before of that end. It goes on over the end of a connection: the ACK after both FINs, late resets
  and a SYN that is sent again after a RST are in it.
- Bytes are those of frames; from 10 kB on the table of conversations cuts them. Durations have 4 digits.
- `initial_rtt` is from the last SYN to the first ACK of either end: to the reset that refuses a SYN, for one.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.captures.common import Record
from tests.oracle import NS_PER_S, Endpoint
from tests.referees.seen import BEGIN_NS, Packet, merged

pytestmark = pytest.mark.traces

FIELDS = ("frame.number", "tcp.stream", "tcp.analysis.initial_rtt")
ROW = re.compile(
    r"(?P<a>[\d.]+):(?P<a_port>\d+) +<-> (?P<b>[\d.]+):(?P<b_port>\d+)"
    r" +(?P<from_b>\d+) (?P<bytes_from_b>\d+ \w+) +(?P<from_a>\d+) (?P<bytes_from_a>\d+ \w+)"
    r" +\d+ \d+ \w+ +(?P<start>[\d.]+) +(?P<duration>[\d.]+)"
)
"""Of the table of conversations."""

Row = dict[str, str]


@dataclass
class Stream:
    """A stream of a capture, as expected; what tshark says of it; and flowml's connections in it."""

    packets: list[Packet]
    initial_rtt: str
    row: Row
    lines: dict[int, Record]
    """By their place in the capture."""

    def side(self, letter: str) -> list[Packet]:
        """The packets from the row's end of that letter."""
        return [one for one in self.packets if one.segment.src == self.end(letter)]

    def end(self, letter: str) -> Endpoint:
        return self.row[letter], int(self.row[f"{letter}_port"])


def tshark(path: Path) -> tuple[dict[tuple[int, ...], str], list[Row]]:
    """Each stream by the numbers of its frames, with its initial RTT; the table of conversations."""
    fields = [option for name in FIELDS for option in ("-e", name)]
    options = ["-T", "fields", "-E", "separator=,", *fields, "-z", "conv,tcp"]
    # What an ICMP error quotes is dissected too.
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), "-Y", "tcp && ip && !icmp", *options],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    listed, _, table = done.partition("=" * 80)
    frames: dict[int, list[int]] = defaultdict(list)
    initial_rtts: dict[int, str] = {}
    for line in listed.splitlines():
        number, stream, initial_rtt = line.split(",")
        frames[int(stream)].append(int(number))
        if initial_rtt:
            assert initial_rtts.setdefault(int(stream), initial_rtt) == initial_rtt
    rows = [found.groupdict() for line in table.splitlines() if (found := ROW.match(line))]
    return {tuple(numbers): initial_rtts.get(stream, "") for stream, numbers in frames.items()}, rows


def streams_of(packets: list[Packet]) -> list[list[Packet]]:
    """A tuple's packets as tshark divides them."""
    first_sequence: dict[Endpoint, int] = {}
    streams: list[list[Packet]] = []
    for one in packets:
        segment = one.segment
        new = one.opens and first_sequence.get(segment.src, segment.seq) != segment.seq
        if new or not streams:
            streams.append([])
            first_sequence = {}
        streams[-1].append(one)
        begins = one.opens or one.answers
        first_sequence.setdefault(segment.src, segment.seq if begins else segment.seq - 1)
        if one.acknowledges or one.answers:
            first_sequence.setdefault(segment.dst, one.ack - 1)
    return streams


@pytest.fixture(scope="module")
def streams() -> list[Stream]:
    """Every stream: tshark divides the packets as expected, and has a row for each."""
    found = []
    for capture in merged():
        theirs, rows = tshark(capture.path)
        expected = [stream for packets in capture.tuples.values() for stream in streams_of(packets)]
        assert {tuple(packet.number for packet in stream) for stream in expected} == set(theirs)
        assert len(rows) == len(expected)
        by_start = {(frozenset(ends(row)), float(row["start"])): row for row in rows}
        for packets in expected:
            first = packets[0]
            since = round((first.time_ns - BEGIN_NS) / NS_PER_S, 9)
            row = by_start[(frozenset((first.segment.src, first.segment.dst)), since)]
            places = dict.fromkeys(packet.connection for packet in packets)
            lines = {place: capture.lines[place] for place in places if place is not None}
            found.append(Stream(packets, theirs[tuple(one.number for one in packets)], row, lines))
    return found


def ends(row: Row) -> tuple[Endpoint, Endpoint]:
    return (row["a"], int(row["a_port"])), (row["b"], int(row["b_port"]))


def shown(size: int) -> str:
    """Bytes as the table of conversations has them."""
    return f"{size} bytes" if size < 10_000 else f"{size // 1000} kB"


def test_segments_and_bytes(streams: list[Stream]) -> None:
    """What tshark has more than flowml are the segments that are in no connection, mostly the ACK after both
    FINs; what bytes it has more are theirs, the Ethernet headers, and the padding."""
    kinds: Counter[str] = Counter()
    for stream in streams:
        for letter in "ab":
            side = stream.side(letter)
            outside = [packet for packet in side if packet.connection is None]
            counted = bytes_sum = 0
            for line in stream.lines.values():
                ours = "s" if (line["src_ip"], line["src_port"]) == stream.end(letter) else "d"
                counted += line[f"{ours}_pkt_cnt"]
                bytes_sum += line[f"{ours}_bytes_sum"]
            above_ip = sum(packet.frame_bytes - packet.segment.ip_bytes for packet in side)
            size = bytes_sum + above_ip + sum(packet.segment.ip_bytes for packet in outside)
            assert int(stream.row[f"from_{letter}"]) == counted + len(outside)
            assert stream.row[f"bytes_from_{letter}"] == shown(int(size))
            kinds["sides"] += bool(stream.lines)
            kinds["equal"] += bool(stream.lines) and not outside
    assert 0 < kinds["equal"] < kinds["sides"], kinds


def test_durations(streams: list[Stream]) -> None:
    """A stream is longer than its connection by what follows it, and not otherwise."""
    kinds: Counter[str] = Counter()
    for stream in streams:
        times = [packet.time_ns for packet in stream.packets]
        printed = float(stream.row["duration"])
        assert printed == pytest.approx((max(times) - min(times)) / NS_PER_S, abs=5.1e-5)
        if len(stream.lines) == 1 and all(packet.connection is not None for packet in stream.packets):
            (line,) = stream.lines.values()
            assert line["dur"] == pytest.approx(printed, abs=5.1e-5)
            kinds["as long"] += 1
    assert kinds["as long"] > 0


def test_initial_rtts(streams: list[Stream]) -> None:
    """Equal to the nanosecond, but where a SYN or the SYN-ACK was sent again, or the first ACK is no answer
    to a SYN-ACK. There the difference is the time between what either takes for the first and the last."""
    kinds: Counter[str] = Counter()
    for stream in streams:
        last_syn = first_ack = None
        for packet in stream.packets:
            if packet.opens and first_ack is None:
                last_syn = packet
            elif packet.acknowledges and last_syn is not None:
                first_ack = first_ack or packet
        place = next((place for place, line in stream.lines.items() if line["tcp_rtt"] is not None), None)
        if last_syn is None or first_ack is None:
            kinds["neither"] += 1
            assert (stream.initial_rtt, place) == ("", None)
            continue
        theirs = float(stream.initial_rtt)
        assert theirs == seconds(last_syn, first_ack)
        if place is None:
            kinds["tshark alone"] += 1
            # As of the reset that refuses a SYN: either end's first ACK, but no handshake.
            before = [packet for packet in stream.packets if packet.number < first_ack.number]
            assert first_ack.segment.src != last_syn.segment.src or not any(one.answers for one in before)
            continue
        ours = stream.lines[place]["tcp_rtt"]
        mine = [packet for packet in stream.packets if packet.connection == place]
        answer = next(packet for packet in mine if packet.answers)
        ack = next(
            packet
            for packet in mine
            if packet.acknowledges
            and packet.number > answer.number
            and packet.segment.src == mine[0].segment.src
        )
        difference = seconds(mine[0], last_syn) + seconds(first_ack, ack)
        assert ours == pytest.approx(theirs + difference, rel=1e-12)
        kinds["different" if difference else "equal"] += 1
    assert kinds["equal"] > 0.9 * (kinds["equal"] + kinds["different"]), kinds


def seconds(earlier: Packet, later: Packet) -> float:
    return (later.time_ns - earlier.time_ns) / NS_PER_S
