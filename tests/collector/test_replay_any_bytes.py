"""Hostile captures through the core on the CPU: it agrees with the oracle, and what is damaged is told."""

from __future__ import annotations

import gzip
import json
import re
import struct
import subprocess
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.replay import CLOCK_OFFSET_NS, Limits
from tests import frames
from tests.any_frames import EDGES, MS, any_frames, at_edges
from tests.captures.common import command
from tests.compare import in_order, raw_of_connection, raw_of_rows
from tests.frames import CLIENT_HELLO, answer, tcp
from tests.fuzz.seeds import as_pcapng
from tests.on_cpu import LIMITS, Replayed, replayed
from tests.oracle import Oracle

Packets = list[tuple[int, bytes]]

S = 1_000_000_000
BEGIN = 10**15
LAST_S = 4_102_444_800
"""1 January 2100: the core takes what is later as of then."""


def check(found: Replayed, packets: Packets, limits: Limits = LIMITS) -> None:
    """What a capture came to is what the oracle makes of these packets, at these times of the capture."""
    oracle = Oracle(
        establish_timeout_ms=limits.tcp_establish_timeout,
        inactivity_timeout_ms=limits.tcp_inactivity_timeout,
    )
    latest = backward = 0
    for time_ns, frame in packets:
        oracle.packet(time_ns - CLOCK_OFFSET_NS, frame)
        backward += time_ns < latest
        latest = max(latest, time_ns)
    expected = [one for one in oracle.finish() if one.tls or not limits.tls_only]
    assert in_order(raw_of_rows(found.rows)) == in_order([raw_of_connection(one) for one in expected])
    assert found.fates == +Counter(oracle.counters)
    assert (found.account.packets, found.account.backward) == (len(packets), backward)


# --- any packets ----------------------------------------------------------------------------------------


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[Limits, Packets]:
    """Timeouts, and packets whose times lie around them; the clock goes backward now and then."""
    establish, inactivity = draw(st.sampled_from([(5000, 300_000), (1, 2), (300_000, 5000), (1, 1)]))
    edges = [establish * MS, inactivity * MS]
    near = [edge + step for edge in edges for step in (-1000, -1, 0, 1, 1000)]
    gaps = st.sampled_from([0, 1, 1, 1, 1000, 1000, 1000, *near, -1, -1000, *(-edge - 1 for edge in edges)])
    now, packets = BEGIN, []
    for gap, frame in draw(st.lists(st.tuples(gaps, any_frames()), max_size=24)):
        now += gap
        packets.append((now, frame))
    limits = Limits(
        max_connections=64,
        tcp_establish_timeout=establish,
        tcp_inactivity_timeout=inactivity,
        tls_only=draw(st.booleans()),
    )
    return limits, packets


@settings(max_examples=300, deadline=None)
@given(arrivals(), st.sampled_from("<>"), st.booleans())
def test_any_packets(arrived: tuple[Limits, Packets], byte_order: str, nanoseconds: bool) -> None:
    """Connections, raw counters and fates are the oracle's, whatever the packets and the form of the file."""
    limits, packets = arrived
    capture = frames.pcap(packets, byte_order=byte_order, nanoseconds=nanoseconds)
    if not nanoseconds:
        packets = [(time_ns // 1000 * 1000, frame) for time_ns, frame in packets]
    found = replayed(capture, limits)
    assert found.trouble == ""
    check(found, packets, limits)


@settings(deadline=None)
@given(st.binary(max_size=2000), st.sampled_from(["", "pcap", "pcapng", "gzip", "zstd"]))
def test_any_bytes(data: bytes, after: str) -> None:
    """No capture at all, or what follows where a capture ends: the sums are right, trouble is told."""
    capture = CAPTURES[after]() if after else b""
    found = replayed(capture + data)
    if after:
        assert found.account.packets >= len(WHOLE)
    elif not data:
        assert found.trouble == "it is empty"


@pytest.mark.parametrize("header", list(EDGES))
def test_a_header_field_at_its_edges(header: str) -> None:
    """As the first segment, in the middle of a connection, and where there is none."""
    for packets in at_edges(header):
        check(replayed(frames.pcap(packets)), packets)


@pytest.mark.parametrize("tags", range(4))
def test_a_frame_cut_at_any_length(tags: int) -> None:
    """With all the headers and options that there can be."""
    whole = tcp("S", b"data", options=bytes(40), ip_options=bytes(40))
    for _ in range(tags):
        whole = frames.vlan(whole)
    for length in range(len(whole) + 1):
        packets = [(BEGIN, whole[:length]), (BEGIN + 1, whole)]
        check(replayed(frames.pcap(packets)), packets)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_times_at_their_edges(byte_order: str, nanoseconds: bool) -> None:
    """From 1970 to 2100; what is outside, or has more than a second's fraction, is taken as the nearest."""
    ticks_a_second = S if nanoseconds else 1_000_000
    for seconds in (0, 1, 2**31 - 1, 2**31, LAST_S, LAST_S + 1, 2**32 - 1):
        for ticks in (0, 1, ticks_a_second - 1, ticks_a_second, 2**31, 2**32 - 1):
            capture = bytearray(frames.pcap([(0, tcp("S"))], byte_order=byte_order, nanoseconds=nanoseconds))
            struct.pack_into(byte_order + "II", capture, 24, seconds, ticks)
            found = replayed(bytes(capture))
            impossible = seconds > LAST_S or ticks >= ticks_a_second
            taken = seconds * S + ticks * (S // ticks_a_second)
            if impossible:
                taken = LAST_S * S if seconds > LAST_S else 0
            assert found.account.impossible == impossible
            check(found, [(taken, tcp("S"))])


# --- damaged files --------------------------------------------------------------------------------------

WHOLE = [
    (BEGIN + number * MS, frame)
    for number, frame in enumerate(
        [
            tcp("S"),
            answer("SA"),
            tcp("PA", CLIENT_HELLO, seq=1),
            answer("A"),
            tcp("S", sport=40001),
            tcp("FA", seq=22),
            answer("FA"),
        ]
    )
]


@cache
def pcap() -> bytes:
    return frames.pcap(WHOLE)


@cache
def pcapng() -> bytes:
    return as_pcapng(WHOLE)


@cache
def gzipped() -> bytes:
    return gzip.compress(pcap(), mtime=0)


@cache
def zstandard() -> bytes:
    command = ["zstd", "-c", "--check"]
    return subprocess.run(command, input=pcap(), capture_output=True, check=True).stdout


CAPTURES = {"pcap": pcap, "pcapng": pcapng, "gzip": gzipped, "zstd": zstandard}


def test_a_pcap_cut_at_any_length() -> None:
    """What is whole is read; trouble is told unless it ends between two packets."""
    ends = [24]
    for _, frame in WHOLE:
        ends.append(ends[-1] + 16 + len(frame))
    for length in range(len(pcap()) + 1):
        found = replayed(pcap()[:length])
        check(found, WHOLE[: sum(end <= length for end in ends[1:])])
        assert (found.trouble == "") == (length in ends), length


@pytest.mark.parametrize("form", ["pcapng", "gzip", "zstd"])
def test_a_capture_cut_at_any_length(form: str) -> None:
    """The longer, the more packets; only the whole one is without trouble, and one cut between blocks."""
    capture = CAPTURES[form]()
    found = [replayed(capture[:length]) for length in range(len(capture) + 1)]
    counts = [one.account.packets for one in found]
    assert all(before <= after for before, after in pairwise(counts))
    assert (counts[0], counts[-1]) == (0, len(WHOLE))
    without = [length for length, one in enumerate(found) if not one.trouble]
    assert without[-1] == len(capture)
    assert len(without) == (1 + len(WHOLE) if form == "pcapng" else 1)
    if form != "pcapng":  # the check sum alone is missing
        assert counts[-2] == len(WHOLE)


@pytest.mark.parametrize("form", CAPTURES)
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_byte_damaged_in_turn(form: str, flip: int) -> None:
    """The sums are right every time; where there is a check sum, damage is told, or has changed nothing."""
    capture = bytearray(CAPTURES[form]())
    for place in range(len(capture)):
        capture[place] ^= flip
        found = replayed(bytes(capture))
        if form in ("gzip", "zstd") and not found.trouble:
            check(found, WHOLE)
        capture[place] ^= flip


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_what_was_decoded_before_the_damage_is_read(form: str) -> None:
    """The check sum is wrong: every packet is there all the same, and it is told."""
    capture = bytearray(CAPTURES[form]())
    capture[-5 if form == "gzip" else -1] ^= 1
    found = replayed(bytes(capture))
    assert found.trouble == f"the {form} file is damaged"
    check(found, WHOLE)


def test_several_members_and_what_follows_them() -> None:
    """Members go on where the one before ended; zeros are padding; anything else is told, not skipped."""
    half = gzip.compress(pcap()[:100], mtime=0), gzip.compress(pcap()[100:], mtime=0)
    for between in (b"", bytes(9)):
        found = replayed(half[0] + between + half[1] + between)
        assert found.trouble == ""
        check(found, WHOLE)
    found = replayed(gzipped() + b"\0more")
    assert found.trouble == "something that is not gzip follows in the gzip file"
    check(found, WHOLE)


@pytest.mark.parametrize(
    ("window_bits", "why"), [(27, "the zstd file is cut short"), (28, "unpacking it takes")]
)
def test_memory_that_a_zstd_file_may_ask_for(window_bits: int, why: str) -> None:
    """128 MiB, as for `zstd -d`; who asks for more is told what to do, not that the file is damaged."""
    descriptor = (window_bits - 10) << 3  # RFC 8878, 3.1.1.1.2
    found = replayed(bytes.fromhex("28b52ffd 00") + bytes([descriptor]))
    assert found.trouble.startswith(why)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_the_command_tells_each_damaged_file_in_a_line(tmp_path: Path, jobs: str) -> None:
    """Whatever it is: one line, the connections until there, then the usual last lines; exit code 3."""
    hello, first = frames.pcap(WHOLE[:3]), len(frames.pcap(WHOLE[:4])) + 5
    damaged = {
        "empty": (b"", 0, "be read as a capture: it is empty"),
        "text": (b"no capture at all", 0, "be read as a capture: unknown file format"),
        "header": (pcap()[:20], 0, "be read as a capture: truncated dump file"),
        "cut": (pcap()[:first], 1, "be read beyond packet 4: truncated dump file"),
        "garbage": (hello + b"\xff" * 30, 1, "be read beyond packet 3: "),
        "cut.gz": (gzipped()[:-4], 1, f"be read beyond packet {len(WHOLE)}: the gzip file is cut short"),
        "bad.gz": (
            gzipped()[:-5] + bytes(5),
            1,
            f"be read beyond packet {len(WHOLE)}: the gzip file is damaged",
        ),
        "more.gz": (gzipped() + b"!", 1, f"be read beyond packet {len(WHOLE)}: something that is not gzip"),
        "head.gz": (gzipped()[:5], 0, "be read as a capture: the gzip file is cut short"),
        "cut.zst": (zstandard()[:-2], 1, f"be read beyond packet {len(WHOLE)}: the zstd file is cut short"),
        "more.zst": (
            zstandard() + b"more",
            1,
            f"be read beyond packet {len(WHOLE)}: the zstd file is damaged",
        ),
    }
    paths = [tmp_path / name for name in damaged]
    for path, (data, _, _) in zip(paths, damaged.values(), strict=True):
        path.write_bytes(data)

    done = command(*paths, "--jobs", jobs)

    assert done.returncode == 3
    *told, fates, last = done.stderr.decode().splitlines()
    assert len(told) == len(damaged)
    for line, path, (_, _, why) in zip(told, paths, damaged.values(), strict=True):
        assert line.startswith(f"flowml: {path} cannot {why}"), line
        assert line.endswith("; the connections until there are written") == ("beyond" in why)
    lines = Counter(Path(json.loads(line)["capture"]).name for line in done.stdout.splitlines())
    assert lines == +Counter({name: count for name, (_, count, _) in damaged.items()})
    assert re.fullmatch(r"\d+ packets: tracked \d+", fates)
    assert last == f"Done. Processed {lines.total()} connections"
