"""Argus beside flowml, over all real captures: equal where both mean the same, and nowhere else by chance.

What Argus counts in a record, as it turned out, and as `Expected` has it to the last packet:

- A record begins with the first packet of a tuple, whatever it is, and with a SYN after a RST. It goes on
  over the end of a connection: the ACK after both FINs, late resets and a tuple that is used again are in it.
  A RST that acknowledges the SYN, so a refusal, does not end it.
- Its bytes are those of the frames, the padding of short ones included.
- `synack` is from the last SYN before the SYN-ACK, flowml's from the first; `ackdat` is from the last
  SYN-ACK, and only to an ACK without data. What was not seen is 0.
- A TTL is that of the last packet.
- A record that a SYN ends lasts until that.
- A record has the MACs of the first of its tuple, in that order, even if its SYN came from the other end.

Times are printed in microseconds from float32, which is what the tolerances are.
"""

from __future__ import annotations

import csv
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.captures.common import Record
from tests.oracle import NS_PER_S, Endpoint
from tests.referees.seen import Capture, Packet, merged

pytestmark = pytest.mark.traces

FIELDS = "stime saddr sport daddr dport smac dur spkts dpkts sbytes dbytes sttl dttl tcprtt synack ackdat"
PUSH = 0x08

Line = dict[str, str]
Judged = list[tuple[Capture, "Expected", Line]]


def argus(path: Path) -> dict[frozenset[Endpoint], list[Line]]:
    """Its records of TCP by tuple, in the order of their starts."""
    # No record is to end while its connection goes on: a day for each.
    records = path.with_suffix(".argus")
    subprocess.run(["argus", "-X", "-m", "-J", "-R", "-S", "86400", "-r", path, "-w", records], check=True)
    shown = subprocess.run(
        ["ra", "-r", records, "-n", "-u", "-p", "6", "-c", ",", "-s", *FIELDS.split(), "-", "tcp"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = defaultdict(list)
    for one in csv.DictReader(shown.splitlines(), fieldnames=FIELDS.split()):
        if one["sport"] != "Sport":
            found[frozenset((source(one), (one["daddr"], int(one["dport"]))))].append(one)
    for several in found.values():
        several.sort(key=lambda one: float(one["stime"]))
    return found


def source(one: Line) -> Endpoint:
    return one["saddr"], int(one["sport"])


@dataclass
class Expected:
    """A record, from the packets that are in it."""

    packets: list[Packet]
    until_ns: int
    tuple_from: Packet
    """The first of its tuple."""

    @property
    def syn(self) -> Packet | None:
        return next((one for one in self.packets if one.opens), None)

    def side(self, src: Endpoint) -> list[Packet]:
        return [one for one in self.packets if one.segment.src == src]

    def handshake(self, src: Endpoint) -> tuple[float, float]:
        """`synack` and `ackdat`, seconds."""
        syn = first_answer = last_answer = None
        for one in self.packets:
            ours = one.segment.src == src
            if ours and one.opens and first_answer is None:
                syn = one
            elif not ours and one.answers and syn is not None:
                first_answer, last_answer = first_answer or one, one
            elif ours and one.acknowledges and last_answer is not None:
                bare = not one.segment.payload and not one.segment.flags & PUSH
                return between(syn, first_answer), between(last_answer, one) if bare else 0.0
        return between(syn, first_answer), 0.0


def between(earlier: Packet | None, later: Packet | None) -> float:
    return 0.0 if earlier is None or later is None else (later.time_ns - earlier.time_ns) / NS_PER_S


def records_of(packets: list[Packet]) -> list[Expected]:
    """A tuple's packets as Argus divides them."""
    groups: list[list[Packet]] = [[]]
    reset = False
    asked = -1
    for one in packets:
        if one.opens:
            if reset:
                groups.append([])
                reset = False
            asked = one.segment.seq + 1
        groups[-1].append(one)
        refusal = one.acknowledges and one.ack == asked
        reset = reset or (one.resets and not refusal)
    found = []
    for number, group in enumerate(groups):
        until = max(one.time_ns for one in group)
        if number + 1 < len(groups):
            until = groups[number + 1][0].time_ns
        found.append(Expected(group, until, packets[0]))
    return found


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Every record of Argus's, beside what it is expected to be."""
    found: Judged = []
    for capture in merged():
        theirs = argus(capture.path)
        assert set(theirs) == set(capture.tuples)
        for key, packets in capture.tuples.items():
            found += ((capture, *both) for both in zip(records_of(packets), theirs[key], strict=True))
    return found


def test_every_record_is_what_its_packets_make_it(judged: Judged) -> None:
    """Segments, bytes of frames, TTLs, times, and the originator: nothing of it is left unexplained."""
    for _, wanted, one in judged:
        src = source(one)
        if wanted.packets[0].opens:
            assert src == wanted.packets[0].segment.src
            assert one["smac"] == wanted.tuple_from.segment.src_mac
        sides = [wanted.side(src), [packet for packet in wanted.packets if packet.segment.src != src]]
        for side, letter in zip(sides, "sd", strict=True):
            assert int(one[f"{letter}pkts"]) == len(side)
            assert int(one[f"{letter}bytes"]) == sum(packet.frame_bytes for packet in side)
            assert one[f"{letter}ttl"] == (str(side[-1].segment.ttl) if side else "")
        dur = (wanted.until_ns - wanted.packets[0].time_ns) / NS_PER_S
        assert float(one["dur"]) == near(dur)
        synack, ackdat = wanted.handshake(src)
        assert seconds(one, "synack") == near(synack)
        assert seconds(one, "ackdat") == near(ackdat)
        assert seconds(one, "tcprtt") == near(synack + ackdat)


def near(value: float) -> Any:
    """Two times in microseconds, each rounded, and one of them a float32."""
    return pytest.approx(value, rel=2**-23, abs=1.1e-6)


def seconds(one: Line, name: str) -> float:
    return float(one[name] or 0)


def test_segments_and_bytes(judged: Judged) -> None:
    """What Argus has more than flowml are the segments that are in no connection, mostly the ACK after both
    FINs; what bytes it has more are theirs, the Ethernet headers, and the padding."""
    kinds: Counter[str] = Counter()
    for capture, wanted, one in judged:
        src = source(one)
        lines = [capture.lines[place] for place in places(wanted)]
        for is_source, letter in ((True, "s"), (False, "d")):
            side = [packet for packet in wanted.packets if (packet.segment.src == src) == is_source]
            outside = [packet for packet in side if packet.connection is None]
            above_ip = sum(packet.frame_bytes - packet.segment.ip_bytes for packet in side)
            counted = bytes_sum = 0
            for line in lines:
                ours = "s" if ((line["src_ip"], line["src_port"]) == src) == is_source else "d"
                counted += line[f"{ours}_pkt_cnt"]
                bytes_sum += line[f"{ours}_bytes_sum"]
            assert int(one[f"{letter}pkts"]) == counted + len(outside)
            outside_bytes = sum(packet.segment.ip_bytes for packet in outside)
            assert int(one[f"{letter}bytes"]) == bytes_sum + outside_bytes + above_ip
            kinds["sides"] += bool(lines)
            kinds["equal"] += bool(lines) and not outside
    assert 0 < kinds["equal"] < kinds["sides"], kinds


def places(wanted: Expected) -> list[int]:
    """The connections that a record is about, in the order of their starts."""
    return [place for place in dict.fromkeys(one.connection for one in wanted.packets) if place is not None]


def test_durations_ttls_and_labels(judged: Judged) -> None:
    """Argus's record is longer by what follows the connection, and not otherwise; TTLs that do not change are
    equal, of those that do it has the last; the label is the same, but where the responder was seen first."""
    kinds: Counter[str] = Counter()
    for capture, wanted, one in judged:
        if not wanted.packets[0].opens:
            continue
        place = places(wanted)[0]
        line, connection = capture.lines[place], capture.connections[place]
        follows = (wanted.until_ns - connection.last_ns) / NS_PER_S
        assert line["dur"] + follows == near(float(one["dur"]))
        kinds["as long" if follows == 0 else "longer"] += 1
        seen_before = wanted.tuple_from.segment.src != source_of(line)
        assert (line["s_mac"] != one["smac"]) == seen_before
        kinds["the same label"] += not seen_before
        for letter, side in (("s", wanted.side(source(one))), ("d", wanted.side(other_end(one)))):
            ttls = {packet.segment.ttl for packet in side}
            if len(ttls) == 1 and line[f"{letter}_pkt_cnt"]:
                assert line[f"{letter}_ttl_mean"] == float(one[f"{letter}ttl"])
                kinds["TTL"] += 1
            elif len(ttls) > 1 and line[f"{letter}_pkt_cnt"]:
                assert min(ttls) <= line[f"{letter}_ttl_mean"] <= max(ttls)
                kinds["TTLs that change"] += 1
    assert kinds["as long"] > 0
    assert kinds["the same label"] > 0.9 * (kinds["as long"] + kinds["longer"]), kinds
    assert kinds["TTL"] > kinds["TTLs that change"], kinds


def other_end(one: Line) -> Endpoint:
    return one["daddr"], int(one["dport"])


def test_handshakes(judged: Judged) -> None:
    """Equal to the microsecond wherever each of SYN and SYN-ACK was sent once and a bare ACK followed. Else
    the difference is the time between the first and the last of them; to an ACK with data Argus has 0."""
    kinds: Counter[str] = Counter()
    for capture, wanted, one in judged:
        synack, ackdat, tcprtt = (seconds(one, name) for name in ("synack", "ackdat", "tcprtt"))
        # Of several connections in a record, it is the first one's that was answered.
        answered = [place for place in places(wanted) if capture.lines[place]["syn_ack"] is not None]
        if not answered:
            kinds["not answered"] += 1
            assert (synack, ackdat, tcprtt) == (0, 0, 0)
            continue
        line = capture.lines[answered[0]]
        mine = [packet for packet in wanted.packets if packet.connection == answered[0]]
        at = next(number for number, packet in enumerate(mine) if packet.answers)
        syns = [packet for packet in mine[:at] if packet.opens]
        assert line["syn_ack"] - between(syns[0], syns[-1]) == near(synack)
        kinds["SYN once" if len(syns) == 1 else "SYN again"] += 1
        first = next(
            (one for one in mine[at:] if one.acknowledges and one.segment.src == source_of(line)), None
        )
        if line["ack_dat"] is None:
            kinds["not acknowledged"] += 1
            assert (first, ackdat, tcprtt) == (None, 0, synack)
            continue
        assert first is not None
        answers = [packet for packet in mine if packet.answers and packet.number < first.number]
        if first.segment.payload or first.segment.flags & PUSH:
            kinds["data at once"] += 1
            assert line["ack_dat"] > ackdat == 0
        elif len(answers) > 1:
            kinds["SYN-ACK again"] += 1
            assert line["ack_dat"] - between(answers[0], answers[-1]) == near(ackdat)
        else:
            kinds["SYN-ACK once"] += 1
            assert line["ack_dat"] == near(ackdat)
            if len(syns) == 1:
                assert line["tcp_rtt"] == near(tcprtt)
    assert kinds["SYN once"] > 0.9 * (kinds["SYN once"] + kinds["SYN again"]), kinds
    assert kinds["SYN-ACK once"] > 0.9 * (kinds["SYN-ACK once"] + kinds["SYN-ACK again"]), kinds


def source_of(line: Record) -> Endpoint:
    return line["src_ip"], line["src_port"]
