"""The same connections over every link type, and without a MAC no label."""

from __future__ import annotations

import struct

import pytest

from tests.captures.common import EXAMPLE, Packet, extracted, fates, records, same
from tests.captures.formats import LINKS, Interface, Link, pcapng
from tests.frames import ethernet, ipv4, pcap, tcp, tcp6


def over(link: Link, packets: list[Packet]) -> tuple[list[Packet], list[Packet]]:
    """What of the packets the link carries: as Ethernet frames for the oracle, and as the link has them."""
    carried = [(time_ns, frame) for time_ns, frame in packets if link.carries(frame)]
    return carried, [(time_ns, link.wrap(frame)) for time_ns, frame in carried]


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_the_same_connections(link: Link, form: str) -> None:
    """Line for line what the oracle makes of Ethernet; the label is null where the link has no MAC."""
    carried, wrapped = over(link, EXAMPLE)
    if form == "pcap":
        data = pcap(wrapped, link_type=link.link_type)
    else:
        data = pcapng(wrapped, (Interface(link.link_type, resolution=9),))
    lines, counts, trouble = extracted(data)
    assert same(lines, records(carried, has_mac=link.has_mac))
    assert len(lines) == 8
    assert {one["s_mac"] for one in lines} == {"02:00:00:00:00:01" if link.has_mac else None}
    assert trouble == ""
    assert {name: counts[name] for name in fates(carried)} == fates(carried)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_cut_at_every_length(link: Link) -> None:
    """A packet that ends anywhere, even before its link header does, counts once its headers are whole."""
    frame = tcp("S", options=b"\x02\x04\x05\xb4", ip_options=b"\x01\x01\x01\x00")
    whole = link.wrap(frame)
    to_the_end_of_tcp = len(whole)
    for length in range(1, to_the_end_of_tcp + 1):
        _, counts, _ = extracted(pcap([(1, whole)], snap_length=length, link_type=link.link_type))
        wanted = "tracked" if length == to_the_end_of_tcp else "truncated"
        assert (length, counts[wanted]) == (length, 1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("length", [0, 1, 5, 7, 8, 20])
def test_an_address_that_is_no_mac_is_no_label(version: int, length: int) -> None:
    """Cooked headers hold addresses of any length: of a tunnel, of an InfiniBand card."""
    packet = tcp("S")[14:]
    if version == 1:
        frame = struct.pack("!HHH", 0, 65534, length) + b"\xaa" * 8 + b"\x08\x00" + packet
    else:
        header = struct.pack("!HHIHBB", 0x0800, 0, 3, 65534, 0, length)
        frame = header + b"\xaa" * 8 + packet
    (line,), _, _ = extracted(pcap([(1, frame)], link_type=113 if version == 1 else 276))
    assert line["s_mac"] is None


def test_what_has_no_ethertype_is_not_ip() -> None:
    """Frames of 802.3 with a length in its place, cooked ones that carry the same, PPP that negotiates."""
    lengths = ethernet(bytes(46), ethertype=46)
    cooked = struct.pack("!HHH", 1, 1, 6) + bytes(8) + b"\x00\x04" + bytes(46)
    for link, frame in ((1, lengths), (113, cooked), (9, b"\xff\x03\xc0\x21" + bytes(10)), (0, bytes(30))):
        _, counts, _ = extracted(pcap([(1, frame)], link_type=link))
        assert counts["not_ip"] == 1, link


def test_raw_ip_that_is_of_no_version() -> None:
    """The link says it is IP, so it contradicts itself."""
    for version in (0, 5, 7, 15):
        _, counts, _ = extracted(pcap([(1, ipv4(bytes(40), version=version))], link_type=101))
        assert counts["malformed"] == 1, version


def test_the_address_family_of_ipv6_differs_from_system_to_system() -> None:
    """10 on Linux, 24, 28 and 30 on the BSDs and macOS: all of them are counted as IPv6."""
    for family in (10, 24, 28, 30):
        for order in "<>":
            frame = struct.pack(order + "I", family) + tcp6("S")[14:]
            _, counts, _ = extracted(pcap([(1, frame)], link_type=0))
            assert counts["ipv6"] == 1, (family, order)
