"""Every form of the same capture is the same connections."""

from __future__ import annotations

import gzip
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.captures.common import EXAMPLE, Packet, extracted, fates, records, same
from tests.captures.formats import (
    BINARY,
    LINKS,
    Interface,
    block,
    enhanced_packet,
    interface_description,
    packet_block,
    pcapng,
    section_header,
    simple_packet,
)
from tests.frames import pcap
from tests.oracle import NS_PER_S

ODD = [(time_ns + number * 1_000_003, frame) for number, (time_ns, frame) in enumerate(EXAMPLE)]
"""The same with times that are no whole milliseconds."""


def as_kept(packets: list[Packet], *interfaces: Interface) -> list[Packet]:
    """What is left of the times where the interfaces take turns."""
    return [
        (interfaces[number % len(interfaces)].as_kept(time_ns), frame)
        for number, (time_ns, frame) in enumerate(packets)
    ]


MICROSECONDS, NANOSECONDS = Interface(), Interface(resolution=9)


def zstd(data: bytes, *options: str) -> bytes:
    """A frame, by the program."""
    return subprocess.run(["zstd", "-qc", *options], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [True, False], ids=["ns", "us"])
def test_classic(order: str, nanoseconds: bool) -> None:
    """Both byte orders, both resolutions: the oracle's connections, line for line, and its fates."""
    data = pcap(ODD, byte_order=order, nanoseconds=nanoseconds)
    lines, counts, trouble = extracted(data)
    kept = as_kept(ODD, NANOSECONDS if nanoseconds else MICROSECONDS)
    assert same(lines, records(kept))
    assert len(lines) == 8
    assert trouble == ""
    assert {name: counts[name] for name in fates(kept)} == fates(kept)
    assert counts["packets"] == sum(fates(kept).values()) == len(kept)
    assert (counts["backward"], counts["impossible"]) == (0, 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "interfaces",
    [
        (MICROSECONDS,),
        (NANOSECONDS,),
        (MICROSECONDS, NANOSECONDS),
        (Interface(resolution=3), Interface(resolution=12, offset_s=1_699_999_000), Interface(resolution=7)),
        (Interface(resolution=BINARY | 10), Interface(resolution=BINARY | 30)),
        (Interface(resolution=0), NANOSECONDS),
        (Interface(resolution=BINARY | 20, offset_s=1_600_000_000), Interface(resolution=6, offset_s=-3600)),
    ],
    ids=lambda interfaces: "-".join(
        f"{one.resolution}{'' if one.offset_s is None else f'{one.offset_s:+}'}" for one in interfaces
    ),
)
def test_pcapng(order: str, interfaces: tuple[Interface, ...]) -> None:
    """Each interface has its own clock: powers of ten and of two, whole seconds, an offset."""
    kept = as_kept(ODD, *interfaces)
    lines, counts, trouble = extracted(pcapng(ODD, interfaces, order=order))
    assert same(lines, records(kept))
    assert trouble == ""
    assert counts["packets"] == len(ODD)
    latest, backward = 0, 0
    for time_ns, _ in kept:
        backward += time_ns < latest
        latest = max(latest, time_ns)
    assert counts["backward"] == backward


def test_blocks_that_are_no_packets() -> None:
    """Unknown, custom and statistics blocks are passed over; the older packet block is read."""
    others = [block("<", kind, b"anything") for kind in (0x0BAD, 0x80000001, 4, 5, 10)]
    data = [section_header(), others[0], interface_description(NANOSECONDS)]
    for number, (time_ns, frame) in enumerate(ODD):
        make = (enhanced_packet, packet_block)[number % 2]
        data += [make(0, NANOSECONDS.ticks(time_ns), frame), others[number % len(others)]]
    lines, counts, trouble = extracted(b"".join(data))
    assert same(lines, records(ODD))
    assert (counts["packets"], trouble) == (len(ODD), "")


def test_several_sections() -> None:
    """A connection goes on from one to the next; each section has interfaces of its own."""
    half = len(ODD) // 2
    data = pcapng(ODD[:half], (MICROSECONDS, NANOSECONDS)) + pcapng(ODD[half:], (NANOSECONDS,))
    kept = as_kept(ODD[:half], MICROSECONDS, NANOSECONDS) + ODD[half:]
    lines, counts, trouble = extracted(data)
    assert same(lines, records(kept))
    assert (counts["packets"], trouble) == (len(ODD), "")


def test_a_packet_without_a_time_is_of_1970() -> None:
    """Simple packet blocks carry none: nothing is invented, and all of it is one instant."""
    data = b"".join([section_header(), interface_description(MICROSECONDS), *map(simple_packet, frames())])
    lines, counts, _ = extracted(data)
    at_once = [(0, frame) for frame in frames()]
    # To the core 0 means "not seen", so its clock begins at 1; here that must not show.
    assert [one["start"] for one in lines] == ["1970-01-01T00:00:00.000000000Z"] * len(lines)
    assert [one["dur"] for one in lines] == [0.0] * len(lines)
    assert {name: counts[name] for name in fates(at_once)} == fates(at_once)


def frames() -> list[bytes]:
    return [frame for _, frame in EXAMPLE]


def in_two_members(data: bytes) -> bytes:
    return gzip.compress(data[:777]) + gzip.compress(data[777:])


def in_many_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[at : at + 1]) for at in range(len(data))) + gzip.compress(b"")


def in_stored_blocks(data: bytes) -> bytes:
    compressor = zlib.compressobj(0, zlib.DEFLATED, 31)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH) + compressor.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip-two-members": in_two_members,
    "gzip-a-member-a-byte": in_many_members,
    "gzip-stored": in_stored_blocks,
    "gzip-padded": lambda data: gzip.compress(data) + bytes(1000),
    "zstd": zstd,
    "zstd-two-frames": lambda data: zstd(data[:777]) + zstd(data[777:]),
    "zstd-checked": lambda data: zstd(data, "--check", "-19"),
    "zstd-long-window": lambda data: zstd(data, "--ultra", "--long=27"),
    "zstd-skippable-frame": lambda data: b"".join(
        [zstd(data[:777]), bytes.fromhex("502a4d1804000000"), b"skip", zstd(data[777:])]
    ),
}


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
@pytest.mark.parametrize("form", [pcap, pcapng], ids=["pcap", "pcapng"])
def test_compressed(coding: Callable[[bytes], bytes], form: Callable[[list[Packet]], bytes]) -> None:
    """Whole streams, several one after the other, without any compression, with what belongs to nobody."""
    lines, counts, trouble = extracted(coding(form(EXAMPLE)))
    assert same(lines, records(EXAMPLE))
    assert (counts["packets"], trouble) == (len(EXAMPLE), "")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (Interface(snap_length=96), "an interface has a snapshot length 96 different from"),
        (Interface(link_type=113), "an interface has a type 113 different from"),
    ],
    ids=["snap-length", "link"],
)
def test_interfaces_that_differ_in_more_than_their_clocks(second: Interface, said: str) -> None:
    """libpcap reads one link type and one snap length a file: the line says which differ, and what to do.

    What came before the second interface was described is written.
    """
    first = Interface(snap_length=65535)
    half = len(EXAMPLE) // 2
    lines, _, trouble = extracted(pcapng(EXAMPLE, (first, second)))
    assert lines == []
    assert trouble.startswith(f"capture cannot be read as a capture: {said}")
    assert "editcap" in trouble

    late = pcapng(EXAMPLE[:half], (first,)) + interface_description(second)
    lines, counts, trouble = extracted(late + enhanced_packet(1, 0, EXAMPLE[half][1]))
    assert same(lines, records(EXAMPLE[:half]))
    assert counts["packets"] == half
    assert trouble.startswith(f"capture cannot be read beyond packet {half}: {said}")
    assert "editcap" in trouble


@pytest.mark.parametrize(
    "interfaces",
    [
        (Interface(snap_length=65535, resolution=9), Interface(snap_length=262144, resolution=9)),
        (Interface(link_type=101, resolution=9), Interface(link_type=101, resolution=9)),
    ],
    ids=["snap-lengths", "raw-ip"],
)
def test_what_the_line_says_helps(interfaces: tuple[Interface, ...], tmp_path: Path) -> None:
    """Different snap lengths, and with libpcap 1.10 any second interface of raw IP, are refused: of such a
    file editcap makes one that is read, and nothing is lost."""
    link = next(one for one in LINKS if one.link_type == interfaces[0].link_type)
    carried = [(time_ns, frame) for time_ns, frame in ODD if link.carries(frame)]
    given, made = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    given.write_bytes(pcapng(((time_ns, link.wrap(frame)) for time_ns, frame in carried), interfaces))
    _, _, trouble = extracted(given)
    assert trouble == "" or "`editcap -F nsecpcap IN OUT`" in trouble
    subprocess.run(["editcap", "-F", "nsecpcap", given, made], capture_output=True, check=True)
    lines, _, trouble = extracted(made)
    assert same(lines, records(carried, has_mac=link.has_mac))
    assert trouble == ""


def test_no_two_interfaces_need_the_same_number_of_the_default_snap_length() -> None:
    """0 means none; it is the same as the largest there is."""
    lines, _, trouble = extracted(pcapng(EXAMPLE, (Interface(), Interface(snap_length=262144))))
    assert same(lines, records(EXAMPLE))
    assert trouble == ""


def test_a_clock_of_nanoseconds_is_kept() -> None:
    """The last digit of a capture's time is in the line."""
    start = EXAMPLE[0][0] // NS_PER_S * NS_PER_S + 123_456_789
    lines, _, _ = extracted(pcap([(start, EXAMPLE[0][1])]))
    assert lines[0]["start"].endswith(".123456789Z")
