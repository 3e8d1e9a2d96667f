"""A capture's own clock, which may run backwards, and packets of which only the beginning was kept."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.captures.common import EXAMPLE, Packet, extracted, fates, records, same
from tests.captures.formats import Interface, interface_description, pcapng
from tests.frames import CLIENT_HELLO, answer, pcap, tcp
from tests.oracle import ESTABLISH_TIMEOUT_MS, INACTIVITY_TIMEOUT_MS, NS_PER_MS, NS_PER_S

BEGIN = EXAMPLE[0][0]
LAST_POSSIBLE_S = 4_102_444_800  # the year 2100


def lines_as_the_oracle_has_them(packets: list[Packet]) -> int:
    """Compares both; how many packets flowml says are earlier than one before them."""
    lines, counts, trouble = extracted(pcap(packets))
    assert same(lines, records(packets))
    assert {name: counts[name] for name in fates(packets)} == fates(packets)
    assert (counts["packets"], trouble) == (len(packets), "")
    return counts["backward"]


@pytest.mark.parametrize("seed", range(20))
def test_out_of_order(seed: int) -> None:
    """Each packet is counted with the time that it has, and in the place that it has; so is its lateness."""
    rng = random.Random(seed)
    packets = list(EXAMPLE)
    for _ in range(10):  # neighbours change places, or a packet comes much too late
        at = rng.randrange(len(packets) - 1)
        packets.insert(rng.choice([at + 1, len(packets)]), packets.pop(at))
    late, latest = 0, 0
    for time_ns, _ in packets:
        late += time_ns < latest
        latest = max(latest, time_ns)
    assert late > 0
    assert lines_as_the_oracle_has_them(packets) == late


def test_a_whole_capture_that_runs_backwards() -> None:
    """All but the first packet are late; none is lost, and no time becomes negative."""
    packets = EXAMPLE[::-1]
    assert lines_as_the_oracle_has_them(packets) == len(packets) - 1
    lines, _, _ = extracted(pcap(packets))
    assert all(one["dur"] >= 0 for one in lines)


@pytest.mark.parametrize(
    ("answered", "timeout_ms", "reason"),
    [(False, ESTABLISH_TIMEOUT_MS, "establish"), (True, INACTIVITY_TIMEOUT_MS, "idle")],
    ids=["establish", "inactivity"],
)
@pytest.mark.parametrize("late_ns", [0, 1], ids=["in-time", "late"])
def test_timeouts_are_of_the_captures_clock(
    answered: bool, timeout_ms: int, reason: str, late_ns: int
) -> None:
    """To the nanosecond: a segment one nanosecond later is of another connection."""
    packets = [(BEGIN, tcp("S")), *([(BEGIN + 5, answer("SA"))] if answered else [])]
    packets.append((packets[-1][0] + timeout_ms * NS_PER_MS + late_ns, tcp("S")))
    assert lines_as_the_oracle_has_them(packets) == 0
    lines, _, _ = extracted(pcap(packets))
    assert [one["reason"] for one in lines] == ([reason, "shutdown"] if late_ns else ["shutdown"])


def test_the_end_of_a_capture_is_its_latest_time() -> None:
    """What is open then timed out, or is cut off, as of the latest packet of any kind, not of the last."""
    other = tcp("A", sport=9)
    late = (BEGIN + 5001 * NS_PER_MS, other)
    packets = [(BEGIN, tcp("S")), late, (BEGIN + 1, other)]
    assert lines_as_the_oracle_has_them(packets) == 1
    lines, _, _ = extracted(pcap(packets))
    assert [one["reason"] for one in lines] == ["establish"]


@pytest.mark.parametrize(
    ("offset_s", "taken_as"),
    [
        (LAST_POSSIBLE_S + 1 - BEGIN // NS_PER_S, "2100-01-01T00:00:00.000000000Z"),
        (-BEGIN // NS_PER_S - 10, "1970-01-01T00:00:00.000000000Z"),
    ],
    ids=["after-2100", "before-1970"],
)
def test_times_that_cannot_be(offset_s: int, taken_as: str) -> None:
    """Taken as of the nearest that can be, and counted."""
    packets = [(BEGIN, tcp("S")), (BEGIN + NS_PER_S, answer("RA"))]
    as_is = Interface(resolution=9)
    data = pcapng(packets, (as_is,))
    moved = data.replace(
        interface_description(as_is), interface_description(replace(as_is, offset_s=offset_s))
    )
    (line,), counts, _ = extracted(moved)
    assert (line["start"], line["dur"]) == (taken_as, 0.0)
    assert (counts["impossible"], counts["backward"], counts["packets"]) == (2, 0, 2)


@pytest.mark.parametrize("snap_length", range(1, 120))
def test_cut_by_the_snap_length(snap_length: int) -> None:
    """As the oracle sees what is left; sizes are the headers', so those of the whole packets.

    A segment whose first bytes of the stream are cut away is counted, since a filter for TLS may miss its
    connection.
    """
    packets = [(time_ns, frame[:snap_length]) for time_ns, frame in EXAMPLE]
    lines, counts, _ = extracted(pcap(EXAMPLE, snap_length=snap_length))
    assert same(lines, records(packets))
    assert {name: counts[name] for name in fates(packets)} == fates(packets)


@pytest.mark.parametrize("snap_length", [53, 54, 55, 58, 59, 60, 96])
def test_a_hello_that_is_cut_is_told_of(snap_length: int) -> None:
    """Six bytes of the stream tell TLS; 14 + 20 + 20 bytes of headers are before them."""
    packets = [
        (BEGIN, tcp("S", seq=1)),
        (BEGIN + 1, answer("SA")),
        (BEGIN + 2, tcp("A", CLIENT_HELLO, seq=2)),
    ]
    lines, counts, _ = extracted(pcap(packets, snap_length=snap_length))
    told = [one["tls"] for one in lines]
    whole = snap_length >= 60
    headers = snap_length >= 54
    assert told == ([whole] if headers else [])
    assert counts["hellos_cut"] == (headers and not whole)


def test_at_96_bytes_nothing_is_lost() -> None:
    """The longest headers of common packets, and enough of the payload to tell TLS."""
    lines, counts, _ = extracted(pcap(EXAMPLE, snap_length=96))
    assert same(lines, records(EXAMPLE))
    assert counts["hellos_cut"] == 0
