"""The oracle against the specification, with numbers worked out by hand."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import frames, oracle
from tests.frames import CLIENT, CLIENT_HELLO, CLIENT_MAC, SERVER, SERVER_MAC
from tests.oracle import Connection, connections, counters

START = 1_700_000_000_123_456_789  # ns; not a whole number of anything
MS = 1_000_000
ESTABLISH = 5000 * MS
INACTIVITY = 300_000 * MS
ISN = 1000

ARP = frames.ethernet(bytes(28), ethertype=0x0806)


def to_server(flags: str, payload: bytes = b"", **fields: Any) -> bytes:
    return frames.tcp(flags, payload, **fields)


def to_client(flags: str, payload: bytes = b"", **fields: Any) -> bytes:
    server = {
        "src": SERVER[0],
        "sport": SERVER[1],
        "src_mac": SERVER_MAC,
        "dst": CLIENT[0],
        "dport": CLIENT[1],
        "dst_mac": CLIENT_MAC,
    }
    return frames.tcp(flags, payload, **{**server, **fields})


def one_per_ms(*packets: bytes) -> list[tuple[int, bytes]]:
    return [(START + n * MS, frame) for n, frame in enumerate(packets)]


def only(found: list[Connection]) -> Connection:
    (connection,) = found
    return connection


def fate(frame: bytes) -> str:
    return oracle.Oracle().packet(START, frame)


def fates(*packets: bytes) -> list[str]:
    referee = oracle.Oracle()
    return [referee.packet(time_ns, frame) for time_ns, frame in one_per_ms(*packets)]


# --- start ----------------------------------------------------------------------------------------------


def test_a_syn_starts_a_connection_and_its_sender_is_the_originator() -> None:
    """Ends, MAC and time of a connection are those of its SYN."""
    connection = only(connections([(START, to_server("S"))]))
    expected = (START, *CLIENT, *SERVER, CLIENT_MAC)
    assert expected == (
        connection.start_ns,
        connection.src_ip,
        connection.src_port,
        connection.dst_ip,
        connection.dst_port,
        connection.s_mac,
    )


def test_the_originator_is_whoever_sent_the_syn_first() -> None:
    """A connection from the other end has its roles the other way round."""
    connection = only(connections(one_per_ms(to_client("S"), to_server("SA"), to_client("A"))))
    assert (*SERVER, *CLIENT, SERVER_MAC, 2, 1) == (
        connection.src_ip,
        connection.src_port,
        connection.dst_ip,
        connection.dst_port,
        connection.s_mac,
        connection.s.packets,
        connection.d.packets,
    )


def test_the_mac_is_that_of_the_first_syn() -> None:
    """A later segment with another Ethernet source does not change `s_mac`."""
    found = connections(one_per_ms(to_server("S"), to_server("S", src_mac="02:00:00:00:00:99")))
    assert only(found).s_mac == CLIENT_MAC


@pytest.mark.parametrize("flags", ["S", "SF", "SP", "SU", "SEC"])
def test_syn_without_ack_and_rst_starts(flags: str) -> None:
    """No other flag matters to a start."""
    assert fate(to_server(flags)) == "tracked"


@pytest.mark.parametrize("flags", ["", "A", "P", "F", "FA", "R", "RA", "SA", "SR", "SRA"])
def test_any_other_segment_without_an_entry_is_untracked(flags: str) -> None:
    """It is counted, and makes no connection."""
    packets = [(START, to_server(flags))]
    assert counters(packets)["untracked"] == 1
    assert connections(packets) == []


def test_connections_are_told_apart_by_both_ends() -> None:
    """A difference in one address or one port is a different connection."""
    found = connections(
        one_per_ms(
            to_server("S"),
            to_server("S", src="10.0.0.3"),
            to_server("S", sport=40001),
            to_server("S", dst="10.0.0.4"),
            to_server("S", dport=444),
        )
    )
    assert [connection.s.packets for connection in found] == [1, 1, 1, 1, 1]


def test_ends_with_ports_exchanged_are_another_connection() -> None:
    """A port belongs to its address."""
    found = connections(one_per_ms(to_server("S"), to_server("S", sport=SERVER[1], dport=CLIENT[1])))
    assert len(found) == 2


def test_a_vlan_tag_does_not_tell_connections_apart() -> None:
    """A segment counts whichever tag it carries."""
    found = connections(one_per_ms(to_server("S"), frames.vlan(to_server("A"), 7)))
    assert only(found).s.packets == 2


# --- every later segment --------------------------------------------------------------------------------


def test_every_later_segment_of_the_tuple_counts() -> None:
    """Retransmissions, duplicates, a repeated SYN, a SYN-ACK from the wrong side, no flags at all."""
    data = to_server("PA", b"data", seq=1)
    found = connections(
        one_per_ms(
            to_server("S"),
            to_server("S"),
            to_client("SA"),
            to_client("SA"),
            to_server("SA"),
            data,
            data,
            to_client("S"),
            to_client(""),
        )
    )
    connection = only(found)
    assert (connection.s.packets, connection.d.packets) == (5, 4)


def test_a_connection_to_itself_is_all_the_originators() -> None:
    """Where both ends are the same, the responder has sent nothing."""
    looped = [to_server(flags, dst=CLIENT[0], dport=CLIENT[1]) for flags in ("S", "SA", "A", "F", "F")]
    connection = only(connections(one_per_ms(*looped)))
    assert (
        connection.s.packets,
        connection.d.packets,
        connection.syn_ack_ns,
        connection.reason,
    ) == (5, 0, None, "shutdown")


# --- end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (to_server("FA"), to_client("FA")),
        (to_client("FA"), to_server("FA")),
        (to_server("F"), to_client("F")),
    ],
)
def test_fin_from_both_sides_ends(first: bytes, second: bytes) -> None:
    """The completing segment counts; the ACK that follows it meets no entry."""
    packets = one_per_ms(to_server("S"), first, second, to_server("A"))
    connection = only(connections(packets))
    assert (connection.reason, connection.s.packets + connection.d.packets) == ("fin", 3)
    assert counters(packets)["untracked"] == 1


def test_fin_from_one_side_does_not_end() -> None:
    """However often it comes; what the other side still sends counts."""
    packets = one_per_ms(
        to_server("S"), to_server("FA"), to_server("FA"), to_client("A"), to_client("PA", b"x")
    )
    connection = only(connections(packets))
    assert (connection.reason, connection.s.packets, connection.d.packets) == ("shutdown", 3, 2)


def test_a_fin_on_the_syn_is_a_fin() -> None:
    """A start that carries FIN needs only the other side's."""
    assert only(connections(one_per_ms(to_server("SF"), to_client("FA")))).reason == "fin"


@pytest.mark.parametrize("rst", [to_server("R"), to_client("RA"), to_server("SR"), to_client("FR")])
def test_any_rst_ends(rst: bytes) -> None:
    """From either side, with whatever other flags; it counts, and the next segment meets no entry."""
    packets = one_per_ms(to_server("S"), rst, to_server("A"))
    connection = only(connections(packets))
    assert (connection.reason, connection.s.packets + connection.d.packets) == ("rst", 2)
    assert counters(packets)["untracked"] == 1


def test_a_rst_that_also_completes_fin_is_a_reset() -> None:
    """RST is the stronger reason."""
    packets = one_per_ms(to_server("S"), to_server("FA"), to_client("FRA"))
    assert only(connections(packets)).reason == "rst"


def test_a_syn_after_the_end_starts_a_new_connection() -> None:
    """On the same tuple, with roles of its own."""
    packets = one_per_ms(to_server("S"), to_client("RA"), to_client("S"), to_server("SA"))
    first, second = connections(packets)
    assert ((first.src_ip, first.src_port), (second.src_ip, second.src_port)) == (CLIENT, SERVER)
    assert second.start_ns == START + 2 * MS


# --- timeouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("silence", "segments"), [(ESTABLISH, [2]), (ESTABLISH + 1, [1, 1])])
def test_the_establish_timeout_runs_from_the_first_segment(silence: int, segments: list[int]) -> None:
    """A connection of one segment outlives exactly 5000 ms, and not one nanosecond more."""
    found = connections([(START, to_server("S")), (START + silence, to_server("S"))])
    assert segments == [connection.s.packets for connection in found]


def test_a_connection_of_one_segment_times_out_as_establish() -> None:
    """Its later segment is untracked when it is no SYN."""
    packets = [(START, to_server("S")), (START + ESTABLISH + 1, to_client("SA"))]
    assert only(connections(packets)).reason == "establish"
    assert counters(packets)["untracked"] == 1


@pytest.mark.parametrize("second", [to_server("S"), to_client("SA"), to_client("A")])
def test_the_second_segment_ends_the_establish_timeout(second: bytes) -> None:
    """Whatever it is, from then on the inactivity timeout is in force."""
    packets = [(START, to_server("S")), (START + MS, second), (START + MS + INACTIVITY, to_server("A"))]
    connection = only(connections(packets))
    assert connection.s.packets + connection.d.packets == 3


def test_a_silent_connection_times_out_as_idle() -> None:
    """After more than 300000 ms; a segment that is no SYN is then untracked."""
    packets = [
        (START, to_server("S")),
        (START, to_client("SA")),
        (START + INACTIVITY + 1, to_server("A")),
    ]
    connection = only(connections(packets))
    assert (connection.reason, connection.s.packets, connection.d.packets) == ("idle", 1, 1)
    assert counters(packets)["untracked"] == 1


def test_a_rst_after_the_timeout_is_untracked() -> None:
    """A timed-out flow is finished before the segment is looked at, so its reason stays idle."""
    packets = [
        (START, to_server("S")),
        (START, to_client("SA")),
        (START + INACTIVITY + 1, to_server("R")),
    ]
    assert only(connections(packets)).reason == "idle"


def test_a_syn_after_the_timeout_starts_a_new_connection() -> None:
    """The old one ends as idle, the SYN is the first segment of the new one."""
    late = START + INACTIVITY + 1
    found = connections([(START, to_server("S")), (START, to_client("SA")), (late, to_client("S"))])
    assert [("idle", START), ("shutdown", late)] == [(each.reason, each.start_ns) for each in found]


@pytest.mark.parametrize("keeper", [to_server("A"), to_client("A")])
def test_inactivity_runs_from_the_last_segment_of_either_side(keeper: bytes) -> None:
    """A segment of one side keeps the connection for both."""
    found = connections(
        [
            (START, to_server("S")),
            (START, to_client("SA")),
            (START + INACTIVITY, keeper),
            (START + 2 * INACTIVITY, to_server("A")),
            (START + 3 * INACTIVITY, to_client("A")),
        ]
    )
    assert only(found).reason == "shutdown"


def test_timeouts_are_settings() -> None:
    """In milliseconds, one for each kind of silence."""
    packets = [
        (START, to_server("S")),
        (START + 8 * MS, to_server("S")),  # 8 ms after the only segment
        (START + 15 * MS, to_client("SA")),  # 7 ms, again
        (START + 26 * MS, to_server("A")),  # 11 ms after two segments
        (START + 26 * MS, to_server("S")),
    ]
    found = connections(packets, establish_timeout_ms=7, inactivity_timeout_ms=10)
    assert [(each.reason, each.s.packets + each.d.packets) for each in found] == [
        ("establish", 1),
        ("idle", 2),
        ("shutdown", 1),
    ]
    counted = counters(packets, establish_timeout_ms=7, inactivity_timeout_ms=10)
    assert (counted["tracked"], counted["untracked"]) == (4, 1)


# --- the end of the capture -----------------------------------------------------------------------------


def test_what_is_open_at_the_end_is_shut_down() -> None:
    """Every remaining entry is told, in the order of starts."""
    found = connections(
        one_per_ms(to_server("S"), to_server("S", sport=40001), to_client("SA", dport=40001), to_client("SA"))
    )
    assert [(each.src_port, each.reason) for each in found] == [(40000, "shutdown"), (40001, "shutdown")]


@pytest.mark.parametrize(
    ("silence", "reason"),
    [(ESTABLISH, "shutdown"), (ESTABLISH + 1, "establish"), (INACTIVITY + 1, "establish")],
)
def test_a_lone_syn_at_the_end_is_judged_by_the_last_packet(silence: int, reason: str) -> None:
    """Any packet moves the capture's time on, one that is not even IP too."""
    found = connections([(START, to_server("S")), (START + silence, ARP)])
    assert only(found).reason == reason


@pytest.mark.parametrize(("silence", "reason"), [(INACTIVITY, "shutdown"), (INACTIVITY + 1, "idle")])
def test_a_connection_at_the_end_is_judged_by_the_last_packet(silence: int, reason: str) -> None:
    """As idle if it had been silent for too long by then."""
    found = connections([(START, to_server("S")), (START, to_client("SA")), (START + silence, ARP)])
    assert only(found).reason == reason


def test_the_last_packet_is_the_latest_not_the_last_to_arrive() -> None:
    """Time that runs backwards at the end does not undo a timeout."""
    found = connections([(START, to_server("S")), (START + ESTABLISH + 1, ARP), (START, ARP)])
    assert only(found).reason == "establish"


def test_connections_come_in_the_order_of_their_ends() -> None:
    """Ended ones first; then, at the end of the capture, the timed out and last the shut down."""
    open_one, silent, reset, late_silent = (
        to_server("S", sport=40001),
        to_server("S", sport=40002),
        to_server("S", sport=40003),
        to_server("S", sport=40004),
    )
    found = connections(
        [
            *one_per_ms(open_one, to_client("SA", dport=40001), silent, reset, late_silent),
            (START + 9 * MS, to_client("R", dport=40003)),
            (START + ESTABLISH + 100 * MS, ARP),
        ]
    )
    expected = [(40003, "rst"), (40002, "establish"), (40004, "establish"), (40001, "shutdown")]
    assert expected == [(each.src_port, each.reason) for each in found]


# --- time that runs backwards ---------------------------------------------------------------------------


def test_a_segment_from_before_does_not_move_the_end_back() -> None:
    """`first_ns` is the time of the first to arrive, `last_ns` the latest."""
    found = connections(
        [
            (START, to_server("S")),
            (START + 9 * MS, to_client("SA")),
            (START + 5 * MS, to_client("A")),
            (START - 3 * MS, to_server("A")),
        ]
    )
    connection = only(found)
    assert (connection.s.first_ns, connection.s.last_ns) == (START, START)
    assert (connection.d.first_ns, connection.d.last_ns) == (START + 9 * MS, START + 9 * MS)
    assert connection.features()["dur"] == 0.009


def test_a_segment_from_before_does_not_time_out() -> None:
    """However far back its time is."""
    found = connections([(START, to_server("S")), (START - 2 * INACTIVITY, to_client("SA"))])
    assert (only(found).reason, only(found).d.packets) == ("shutdown", 1)


def test_silence_is_measured_from_the_latest_segment() -> None:
    """A segment from before does not make the timeout run out sooner."""
    found = connections(
        [
            (START, to_server("S")),
            (START + 9 * MS, to_client("SA")),
            (START - 9 * MS, to_server("A")),
            (START + 9 * MS + INACTIVITY, to_server("A")),
        ]
    )
    assert only(found).s.packets == 3


# --- fates ----------------------------------------------------------------------------------------------


def test_every_packet_has_one_fate_and_all_are_named() -> None:
    """Every fate once, the SYN and its answer being two tracked ones."""
    packets = one_per_ms(
        to_server("S"),
        to_client("SA"),
        to_server("A", sport=50000),
        ARP,
        frames.tcp6("S"),
        to_server("S", proto=17),
        to_server("A", fragment_offset=1),
        to_server("S", version=5),
        to_server("S")[:40],
    )
    assert counters(packets) == {
        "tracked": 2,
        "untracked": 1,
        "not_ip": 1,
        "ipv4": 0,
        "ipv6": 1,
        "not_tcp": 1,
        "fragment": 1,
        "malformed": 1,
        "truncated": 1,
    }


def test_no_packets_no_counts() -> None:
    """An empty capture names every fate too."""
    assert counters([]) == dict.fromkeys(oracle.FATES, 0)
    assert connections([]) == []


@pytest.mark.parametrize("ethertype", [0, 46, 0x0806, 0x0801, 0x8847, 0x8864, 0x9100, 0xFFFF])
def test_other_ethertypes_are_not_ip(ethertype: int) -> None:
    """Whatever follows; a length (IEEE 802.3) is no EtherType of IP either."""
    assert fate(to_server("S", ethertype=ethertype)) == "not_ip"


def test_ipv6_is_ipv6_whatever_it_holds() -> None:
    """Judged by the EtherType alone, so with nothing behind it too."""
    assert fates(frames.tcp6("S"), frames.ethernet(ethertype=0x86DD)) == ["ipv6", "ipv6"]


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8])
def test_one_vlan_tag_is_looked_through(tpid: int) -> None:
    """802.1Q and 802.1ad; the VLAN and its priority do not matter."""
    assert fate(frames.vlan(to_server("S"), 4095, tpid=tpid, priority=7)) == "tracked"


@pytest.mark.parametrize("inner", [0x8100, 0x88A8])
@pytest.mark.parametrize("outer", [0x8100, 0x88A8])
def test_two_vlan_tags_are_looked_through(outer: int, inner: int) -> None:
    """In any combination; the MAC and the numbers are those behind them."""
    frame = frames.vlan(frames.vlan(to_server("S"), tpid=inner), tpid=outer)
    connection = only(connections([(START, frame)]))
    assert (CLIENT_MAC, *CLIENT, 40) == (
        connection.s_mac,
        connection.src_ip,
        connection.src_port,
        connection.s.bytes,
    )


def test_three_vlan_tags_are_not_looked_through() -> None:
    """Behind two tags, a tag is no IP."""
    assert fate(frames.vlan(frames.vlan(frames.vlan(to_server("S"))))) == "not_ip"


def test_other_things_behind_a_tag_keep_their_fate() -> None:
    """ARP and IPv6 are known behind a tag, were it the last thing in the frame."""
    tagged = [frames.vlan(frames.ethernet(ethertype=ethertype)) for ethertype in (0x0806, 0x86DD)]
    assert fates(*tagged) == ["not_ip", "ipv6"]


@pytest.mark.parametrize("proto", [0, 1, 17, 41, 47, 132])
def test_other_protocols_are_not_tcp(proto: int) -> None:
    """An IPv4 packet of any other protocol is one thing."""
    assert fate(to_server("S", proto=proto)) == "not_tcp"


@pytest.mark.parametrize("offset", [1, 0x1000, 0x1FFF])
@pytest.mark.parametrize("more", [True, False])
def test_fragments_after_the_first_are_fragments(offset: int, more: bool) -> None:
    """A fragment offset other than 0 tells them."""
    assert fate(to_server("S", fragment_offset=offset, more_fragments=more)) == "fragment"


def test_a_first_fragment_is_a_segment() -> None:
    """It has ports, and its size is that of the fragment."""
    connection = only(connections([(START, to_server("S", bytes(60), more_fragments=True))]))
    assert connection.s.bytes == 100


def test_dont_fragment_is_no_offset() -> None:
    """The flags above the offset do not belong to it."""
    assert fate(to_server("S", dont_fragment=True)) == "tracked"


@pytest.mark.parametrize("version", [0, 3, 5, 6, 15])
def test_another_ip_version_is_malformed(version: int) -> None:
    """The EtherType says 4, so the header must."""
    assert fate(to_server("S", version=version)) == "malformed"


@pytest.mark.parametrize("ihl", range(5))
def test_a_short_ihl_is_malformed(ihl: int) -> None:
    """An IPv4 header has at least five words."""
    assert fate(to_server("S", ihl=ihl)) == "malformed"


@pytest.mark.parametrize("data_offset", range(5))
def test_a_short_data_offset_is_malformed(data_offset: int) -> None:
    """A TCP header has at least five words."""
    assert fate(to_server("S", data_offset=data_offset)) == "malformed"


@pytest.mark.parametrize(
    ("total_length", "expected"),
    [
        (0, "malformed"),
        (23, "malformed"),  # an IPv4 header of 24
        (24, "malformed"),
        (43, "malformed"),  # and 20 of TCP
        (44, "malformed"),
        (51, "malformed"),  # and 8 of TCP options
        (52, "tracked"),
        (60, "tracked"),
        (65535, "tracked"),  # longer than what was captured contradicts nothing
    ],
)
def test_a_total_length_shorter_than_the_headers_is_malformed(total_length: int, expected: str) -> None:
    """Shorter than the IPv4 header, its options, the TCP header or its options."""
    frame = to_server("S", b"12345678", ip_options=bytes(4), options=bytes(8), total_length=total_length)
    assert fate(frame) == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [(length, "truncated") for length in range(18 + 24 + 28)]
    + [(70, "tracked"), (71, "tracked"), (78, "tracked")],
)
def test_a_header_that_is_cut_short_is_truncated(length: int, expected: str) -> None:
    """At every length: Ethernet 14, tag 4, IPv4 20 + 4, TCP 20 + 8. Payload may be cut."""
    frame = frames.vlan(to_server("S", b"12345678", ip_options=bytes(4), options=bytes(8)))
    assert len(frame) == 78
    assert fate(frame[:length]) == expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(frames.ethernet(frames.ipv4(version=6)[:19]), "truncated", id="fixed header, version"),
        pytest.param(to_server("S", version=6, proto=17), "malformed", id="version, protocol"),
        pytest.param(to_server("S", ihl=4, proto=17), "malformed", id="ihl, protocol"),
        pytest.param(to_server("S", total_length=19, proto=17), "malformed", id="length, protocol"),
        pytest.param(to_server("S", total_length=20, proto=17), "not_tcp", id="protocol, TCP length"),
        pytest.param(to_server("S", proto=17, fragment_offset=1), "not_tcp", id="protocol, fragment"),
        pytest.param(
            frames.ethernet(frames.ipv4(proto=17, ihl=15, total_length=60)), "not_tcp", id="options cut"
        ),
        pytest.param(
            to_server("S", fragment_offset=1, total_length=21), "fragment", id="fragment, TCP length"
        ),
        pytest.param(to_server("S", fragment_offset=1)[:34], "fragment", id="fragment, TCP cut"),
        pytest.param(to_server("S", total_length=39)[:50], "malformed", id="TCP length, TCP cut"),
        pytest.param(to_server("S", data_offset=4)[:53], "truncated", id="TCP cut, data offset"),
        pytest.param(to_server("S", data_offset=15), "malformed", id="both headers, TCP options cut"),
        pytest.param(to_server("S", data_offset=6, total_length=44), "truncated", id="TCP options cut"),
    ],
)
def test_a_packet_with_two_faults_has_the_fate_of_the_first(frame: bytes, expected: str) -> None:
    """The order in which a packet is judged; each case names the two checks that compete."""
    assert fate(frame) == expected


def test_checksums_are_not_looked_at() -> None:
    """An offloaded checksum is wrong in every capture of the sending host."""
    assert fate(to_server("S", header_checksum=0xDEAD, tcp_checksum=0xBEEF)) == "tracked"


# --- TLS ------------------------------------------------------------------------------------------------


def hello(*payloads: tuple[int, bytes], isn: int = ISN) -> bool:
    """Whether an originator that sends these payloads at these stream offsets is told as TLS."""
    packets = [to_server("S", seq=isn), to_client("SA"), to_server("A", seq=isn + 1)]
    packets += [to_server("PA", payload, seq=isn + 1 + offset) for offset, payload in payloads]
    return only(connections(one_per_ms(*packets))).tls


def with_byte(offset: int, value: int) -> bytes:
    return CLIENT_HELLO[:offset] + bytes([value]) + CLIENT_HELLO[offset + 1 :]


def test_a_client_hello_is_tls() -> None:
    """Content type 22, major version 3, handshake type 1."""
    assert hello((0, CLIENT_HELLO)) is True


def test_no_payload_is_not_tls() -> None:
    """A handshake alone tells nothing."""
    assert hello() is False


@pytest.mark.parametrize(("offset", "value"), [(0, 23), (0, 20), (1, 2), (1, 0), (5, 2), (5, 0)])
def test_one_wrong_byte_is_not_tls(offset: int, value: int) -> None:
    """Each of the three bytes must be right."""
    assert hello((0, with_byte(offset, value))) is False


@pytest.mark.parametrize("offset", [2, 3, 4, 6])
def test_other_bytes_do_not_matter(offset: int) -> None:
    """Minor version, lengths and what follows may be anything."""
    assert hello((0, with_byte(offset, 0xFF))) is True


def test_five_bytes_do_not_decide() -> None:
    """Without the handshake type it is not TLS, with it it is."""
    assert [hello((0, CLIENT_HELLO[:5])), hello((0, CLIENT_HELLO[:6]))] == [False, True]


@pytest.mark.parametrize("at", range(1, 6))
def test_a_hello_in_two_segments_is_tls(at: int) -> None:
    """Wherever it is cut, in either order."""
    head, tail = (0, CLIENT_HELLO[:at]), (at, CLIENT_HELLO[at:])
    assert [hello(head, tail), hello(tail, head)] == [True, True]


def test_a_hello_byte_by_byte_is_tls() -> None:
    """Six segments of one byte."""
    assert hello(*((n, CLIENT_HELLO[n : n + 1]) for n in range(6))) is True


def test_a_gap_is_not_tls() -> None:
    """All three bytes must be seen."""
    assert [
        hello((1, CLIENT_HELLO[1:])),
        hello((0, CLIENT_HELLO[:1]), (2, CLIENT_HELLO[2:])),
        hello((0, CLIENT_HELLO[:5]), (6, CLIENT_HELLO[6:])),
    ] == [False, False, False]


def test_a_hello_later_in_the_stream_is_not_tls() -> None:
    """As after STARTTLS, or behind a proxy's CONNECT."""
    assert [hello((0, b"GET / HTTP/1.1"), (14, CLIENT_HELLO)), hello((6, CLIENT_HELLO))] == [False, False]


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_a_wrong_copy_while_undecided_is_wrong_for_good(offset: int) -> None:
    """A byte that was seen wrong is not made right by a retransmission, nor the other way round."""
    right, wrong = (offset, CLIENT_HELLO[offset : offset + 1]), (offset, b"\0")
    assert [hello(wrong, (0, CLIENT_HELLO)), hello(right, wrong, (0, CLIENT_HELLO))] == [False, False]


def test_a_wrong_copy_after_the_decision_does_not_matter() -> None:
    """Once the three bytes are seen nothing is looked at any more."""
    assert [
        hello((0, CLIENT_HELLO), (0, with_byte(0, 23))),
        hello((0, with_byte(0, 23)), (0, CLIENT_HELLO)),
    ] == [True, False]


def test_only_segments_that_begin_in_the_first_six_bytes_are_looked_at() -> None:
    """A keep-alive probe begins one before the stream, so neither its byte nor what follows is looked at."""
    assert [hello((-1, b"\0\0\0"), (0, CLIENT_HELLO)), hello((-1, b"\0" + CLIENT_HELLO))] == [True, False]


@pytest.mark.parametrize("isn", [2**32 - 1, 2**32 - 2, 2**32 - 4, 2**31 - 1, 2**31])
def test_offsets_are_modulo_the_sequence_space(isn: int) -> None:
    """A stream whose numbers wrap is read like any other."""
    assert hello((0, CLIENT_HELLO[:3]), (3, CLIENT_HELLO[3:]), isn=isn) is True


def test_data_on_the_syn_counts() -> None:
    """TCP Fast Open: the first byte has the number after the SYN's."""
    assert only(connections([(START, to_server("S", CLIENT_HELLO, seq=ISN))])).tls is True


def test_a_retransmitted_syn_is_placed_by_its_own_number() -> None:
    """The stream begins where the first SYN said; a SYN with another number is somewhere else."""
    start = to_server("S", seq=ISN)
    same, other = to_server("S", CLIENT_HELLO, seq=ISN), to_server("S", CLIENT_HELLO, seq=ISN + 100)
    assert [only(connections(one_per_ms(start, again))).tls for again in (same, other)] == [True, False]


def test_the_responders_bytes_do_not_count() -> None:
    """A server that sends a ClientHello's bytes is not TLS."""
    packets = one_per_ms(to_server("S", seq=ISN), to_client("PA", CLIENT_HELLO, seq=ISN + 1))
    assert only(connections(packets)).tls is False


def test_padding_is_no_payload() -> None:
    """Payload ends where the total length says, so bytes after it are not the stream's."""
    empty = to_server("A", seq=ISN + 1)
    padded = to_server("PA", CLIENT_HELLO[:5], seq=ISN + 1) + CLIENT_HELLO[5:]
    for trailer in (empty + CLIENT_HELLO, padded):
        found = connections(one_per_ms(to_server("S", seq=ISN), trailer))
        assert only(found).tls is False


def test_only_captured_bytes_count() -> None:
    """A payload that was cut before the handshake type tells nothing, one cut after it does."""
    whole = to_server("PA", CLIENT_HELLO, seq=ISN + 1)
    header = len(whole) - len(CLIENT_HELLO)
    found = [
        only(connections(one_per_ms(to_server("S", seq=ISN), whole[: header + kept]))).tls for kept in (5, 6)
    ]
    assert found == [False, True]


def test_options_are_no_payload() -> None:
    """Payload begins behind the options of both headers."""
    data = to_server("PA", CLIENT_HELLO, seq=ISN + 1, ip_options=bytes(8), options=bytes(12))
    assert only(connections(one_per_ms(to_server("S", seq=ISN), data))).tls is True


def test_the_segment_that_ends_a_connection_is_looked_at() -> None:
    """It counts, so its payload does."""
    packets = one_per_ms(to_server("S", seq=ISN), to_server("PRA", CLIENT_HELLO, seq=ISN + 1))
    assert only(connections(packets)).tls is True


def test_the_filter_keeps_tls_alone() -> None:
    """`tls_only` leaves out the others, and changes no count."""
    packets = one_per_ms(to_server("S", sport=40001), to_server("S", CLIENT_HELLO, seq=ISN))
    assert [each.src_port for each in connections(packets, tls_only=True)] == [40000]


# --- features -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worked() -> dict[str, float | None]:
    """The features of one connection: sizes 60, 40, 160, 40 against 60, 50, 40; times in the code."""
    return only(
        connections(
            [
                (START, to_server("S", options=bytes(20), ttl=64)),
                (START + 30 * MS, to_client("SA", options=bytes(20), ttl=50)),
                (START + 40 * MS, to_server("A", ttl=64)),
                (START + 55 * MS, to_server("PA", bytes(120), ttl=61)),
                (START + 90 * MS, to_client("A", bytes(10), ttl=56)),
                (START + 130 * MS, to_client("FA", ttl=50)),
                (START + 240 * MS, to_server("FA", ttl=64)),
            ]
        )
    ).features()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dur", 0.24),
        ("proto", 6.0),
        ("s_bytes_sum", 300.0),  # 60 + 40 + 160 + 40
        ("d_bytes_sum", 150.0),  # 60 + 50 + 40
        ("s_ttl_mean", 63.25),  # (64 + 64 + 61 + 64) / 4
        ("d_ttl_mean", 52.0),  # (50 + 56 + 50) / 3
        ("s_load", 10000.0),  # 8 * 300 / 0.24
        ("d_load", 5000.0),  # 8 * 150 / 0.24
        ("s_pkt_cnt", 4.0),
        ("d_pkt_cnt", 3.0),
        ("s_bytes_mean", 75.0),  # 300 / 4
        ("d_bytes_mean", 50.0),  # 150 / 3
        ("s_iat_mean", 0.08),  # (0.240 - 0.000) / 3
        ("d_iat_mean", 0.05),  # (0.130 - 0.030) / 2
        ("tcp_rtt", 0.04),  # 0.030 + 0.010
        ("syn_ack", 0.03),
        ("ack_dat", 0.01),  # 0.040 - 0.030
    ],
)
def test_feature(worked: dict[str, float | None], name: str, expected: float) -> None:
    """Each feature of a connection whose numbers are worked out beside it."""
    assert expected == worked[name]


def test_there_are_17_features_in_their_order(worked: dict[str, float | None]) -> None:
    """By name, as the specification lists them, each a float."""
    names = (
        "dur proto s_bytes_sum d_bytes_sum s_ttl_mean d_ttl_mean s_load d_load s_pkt_cnt d_pkt_cnt"
        " s_bytes_mean d_bytes_mean s_iat_mean d_iat_mean tcp_rtt syn_ack ack_dat"
    )
    assert " ".join(worked) == names
    assert {float} == {type(value) for value in worked.values()}


def test_features_of_a_lone_syn() -> None:
    """Sums and counts are true zeros; the rest is undefined but for the SYN's own means."""
    assert only(connections([(START, to_server("S", ttl=63))])).features() == {
        "dur": 0.0,
        "proto": 6.0,
        "s_bytes_sum": 40.0,
        "d_bytes_sum": 0.0,
        "s_ttl_mean": 63.0,
        "d_ttl_mean": None,
        "s_load": None,
        "d_load": None,
        "s_pkt_cnt": 1.0,
        "d_pkt_cnt": 0.0,
        "s_bytes_mean": 40.0,
        "d_bytes_mean": None,
        "s_iat_mean": None,
        "d_iat_mean": None,
        "tcp_rtt": None,
        "syn_ack": None,
        "ack_dat": None,
    }


def features(*packets: tuple[int, bytes]) -> dict[str, float | None]:
    """Of the one connection in packets whose times are milliseconds after the start."""
    return only(connections([(START + at * MS, frame) for at, frame in packets])).features()


def test_load_of_a_silent_responder_is_a_true_zero() -> None:
    """Over a duration above 0 it has sent nothing, which is a number."""
    found = features((0, to_server("S")), (1000, to_server("S")))
    assert (found["s_load"], found["d_load"]) == (640.0, 0.0)  # 8 * 80 / 1


def test_load_over_no_time_is_undefined() -> None:
    """For both sides, however much they sent."""
    found = features((0, to_server("S")), (0, to_client("SA")))
    assert (found["dur"], found["s_load"], found["d_load"]) == (0.0, None, None)


def test_the_duration_ends_with_the_last_segment_of_either_side() -> None:
    """The responder's last segment counts as the originator's does."""
    assert [
        features((0, to_server("S")), (50, to_server("A")), (70, to_client("A")))["dur"],
        features((0, to_server("S")), (50, to_client("A")), (80, to_server("A")))["dur"],
    ] == [0.07, 0.08]


def test_an_interarrival_of_segments_at_one_time_is_a_true_zero() -> None:
    """Two segments have an inter-arrival time, one has none."""
    found = features((0, to_server("S")), (0, to_server("S")), (5, to_client("SA")))
    assert (found["s_iat_mean"], found["d_iat_mean"]) == (0.0, None)


def test_sizes_are_the_ip_headers_total_length() -> None:
    """Padding and tags do not count; what the capture cut off does."""
    found = connections(
        one_per_ms(
            to_server("S", pad=True),  # 40 in a frame of 60
            frames.vlan(to_server("A")),  # 40
            to_server("PA", bytes(1000))[:54],  # 1040
            to_server("PA", bytes(3), ip_options=bytes(8), options=bytes(4)),  # 20 + 8 + 20 + 4 + 3
        )
    )
    assert only(found).s.bytes == 1175


def test_syn_ack_needs_both_flags() -> None:
    """Neither an ACK nor a SYN of the responder is one."""
    found = features(
        (0, to_server("S")),
        (10, to_client("A")),
        (20, to_client("S")),
        (30, to_client("SPA")),
        (40, to_server("A")),
    )
    assert (found["syn_ack"], found["ack_dat"], found["tcp_rtt"]) == (0.03, 0.01, 0.04)


def test_syn_ack_is_the_responders() -> None:
    """A segment of the originator with both flags is no SYN-ACK."""
    found = features((0, to_server("S")), (10, to_server("SA")), (20, to_client("A")), (30, to_server("A")))
    assert (found["syn_ack"], found["ack_dat"], found["tcp_rtt"]) == (None, None, None)


def test_the_first_of_two_syn_acks_counts() -> None:
    """A retransmission changes nothing, before or after the ACK."""
    found = features(
        (0, to_server("S")),
        (10, to_client("SA")),
        (20, to_client("SA")),
        (35, to_server("A")),
        (50, to_client("SA")),
    )
    assert (found["syn_ack"], found["ack_dat"]) == (0.01, 0.025)


def test_the_handshake_is_measured_from_the_first_syn() -> None:
    """A repeated SYN does not start the clock again."""
    found = features(
        (0, to_server("S")), (1000, to_server("S")), (1010, to_client("SA")), (1015, to_server("A"))
    )
    assert (found["syn_ack"], found["ack_dat"], found["tcp_rtt"]) == (1.01, 0.005, 1.015)


def test_ack_dat_is_the_first_ack_after_the_syn_ack() -> None:
    """Not one before it, not a segment without ACK, not the responder's, not a later one."""
    found = features(
        (0, to_server("S")),
        (5, to_server("A")),
        (10, to_client("SA")),
        (20, to_server("S")),
        (30, to_client("A")),
        (40, to_server("PA", b"x")),
        (50, to_server("A")),
    )
    assert (found["syn_ack"], found["ack_dat"], found["tcp_rtt"]) == (0.01, 0.03, 0.04)


@pytest.mark.parametrize("flags", ["FA", "RA", "SA"])
def test_any_segment_with_ack_completes_the_handshake(flags: str) -> None:
    """FIN, RST or SYN beside the ACK do not matter."""
    found = features((0, to_server("S")), (10, to_client("SA")), (15, to_server(flags)))
    assert found["ack_dat"] == 0.005


def test_a_handshake_part_that_was_not_seen_is_undefined() -> None:
    """Without the last ACK there is a SYN-ACK time and no round trip."""
    found = features((0, to_server("S")), (10, to_client("SA")), (20, to_server("R")))
    assert (found["syn_ack"], found["ack_dat"], found["tcp_rtt"]) == (0.01, None, None)


def test_after_means_arrival_not_time() -> None:
    """Where time runs backwards the difference is negative, and still defined."""
    found = features((0, to_server("S")), (30, to_client("SA")), (20, to_server("A")))
    assert (found["syn_ack"], found["ack_dat"], found["tcp_rtt"]) == (0.03, -0.01, 0.02)


def test_nothing_is_rounded_before_the_end() -> None:
    """One nanosecond in 1.7 billion seconds is not lost, and a third is the nearest float to a third."""
    found = connections([(START + n, to_server("S")) for n in (0, 0, 0, 1)])
    result = only(found).features()
    assert (result["dur"], result["s_iat_mean"], result["s_load"]) == (1e-9, 1 / 3e9, 8 * 160 * 1e9)


# --- captures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(("nanoseconds", "ns"), [(True, START), (False, START // 1000 * 1000)])
def test_a_capture_reads_back(tmp_path: Path, byte_order: str, nanoseconds: bool, ns: int) -> None:
    """Both byte orders and both units of time."""
    capture = tmp_path / "a.pcap"
    capture.write_bytes(
        frames.pcap([(START, ARP), (START, to_server("S"))], byte_order=byte_order, nanoseconds=nanoseconds)
    )
    assert [(ns, ARP), (ns, to_server("S"))] == list(oracle.read_pcap(capture))


def test_a_capture_tells_original_lengths(tmp_path: Path) -> None:
    """Of frames that were cut as of whole ones."""
    capture = tmp_path / "a.pcap"
    capture.write_bytes(frames.pcap([(START, to_server("S", bytes(100)))], snap_length=60))
    assert [(len(each.frame), each.original_length) for each in oracle.read_records(capture)] == [(60, 154)]


def test_an_empty_frame_is_a_packet(tmp_path: Path) -> None:
    """A record may hold nothing; a capture may hold no record."""
    capture = tmp_path / "a.pcap"
    for packets in ([], [(START, b"")]):
        capture.write_bytes(frames.pcap(packets))
        assert list(oracle.read_pcap(capture)) == packets


def test_a_truncated_last_record_ends_the_capture(tmp_path: Path) -> None:
    """Cut anywhere, in its header or in its frame, it is as if it were not there."""
    whole = frames.pcap([(START, ARP), (START, ARP)])
    first_end = len(frames.pcap([(START, ARP)]))
    capture = tmp_path / "a.pcap"
    for length in range(first_end, len(whole)):
        capture.write_bytes(whole[:length])
        assert list(oracle.read_pcap(capture)) == [(START, ARP)]


@pytest.mark.parametrize("link_type", [0, 101, 113, 276])
def test_other_link_types_are_refused(tmp_path: Path, link_type: int) -> None:
    """Anything but Ethernet, by its number."""
    capture = tmp_path / "a.pcap"
    capture.write_bytes(frames.pcap([], link_type=link_type))
    with pytest.raises(ValueError, match=f"link type {link_type}"):
        list(oracle.read_pcap(capture))


def test_a_frame_check_sequence_does_not_change_the_link_type(tmp_path: Path) -> None:
    """The bits above the link type say that one follows; total lengths leave it out."""
    capture = tmp_path / "a.pcap"
    capture.write_bytes(
        frames.pcap([(START, to_server("S") + b"\x01\x02\x03\x04")], link_type=2 << 29 | 1 << 26 | 1)
    )
    assert only(connections(oracle.read_pcap(capture))).s.bytes == 40


@pytest.mark.parametrize("data", [b"", b"\x0a\x0d\x0d\x0a" + bytes(40), frames.pcap([])[:23], b"\0" * 24])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    """pcapng, an empty file, half a file header, anything."""
    capture = tmp_path / "a.pcap"
    capture.write_bytes(data)
    with pytest.raises(ValueError, match="not a classic pcap"):
        list(oracle.read_pcap(capture))


# --- the frames themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
@pytest.mark.parametrize("options", [b"", b"\x01", bytes(40)])
def test_built_frames_have_right_lengths_and_checksums(payload: bytes, options: bytes) -> None:
    """The sum over a header that holds its checksum is zero (RFC 1071)."""
    frame = to_server("PA", payload, seq=2**32 - 1, ack=5, options=options, ip_options=options)
    ip = frame[14:]
    header = (ip[0] & 0xF) * 4
    assert frames.checksum(ip[:header]) == 0
    assert len(ip) == struct.unpack_from("!H", ip, 2)[0]
    pseudo_header = ip[12:20] + struct.pack("!BBH", 0, 6, len(ip) - header)
    assert frames.checksum(pseudo_header + ip[header:]) == 0


def test_built_ipv6_frames_have_right_checksums() -> None:
    """The pseudo header of IPv6 (RFC 8200) has longer fields."""
    ip = frames.tcp6("S", b"odd")[14:]
    assert len(ip) == 40 + struct.unpack_from("!H", ip, 4)[0]
    pseudo_header = ip[8:40] + struct.pack("!I3xB", len(ip) - 40, 6)
    assert frames.checksum(pseudo_header + ip[40:]) == 0


def test_padding_fills_a_frame_up_to_60() -> None:
    """A longer one stays as it is."""
    assert [len(to_server("S", pad=True)), len(to_server("S", bytes(10), pad=True))] == [60, 64]


# --- real captures --------------------------------------------------------------------------------------

SAMPLE = 20


def sample() -> Iterator[Path]:
    """About `SAMPLE` captures, evenly from the sorted list of all."""
    root = os.environ.get("FLOWML_TRACES")
    if not root:
        pytest.skip("FLOWML_TRACES names no folder of captures")
    captures = sorted(Path(root).glob("**/*.pcap"))
    assert captures, f"no captures in {root}"
    yield from captures[:: max(1, len(captures) // SAMPLE)]


def ask_tshark(capture: Path) -> tuple[int, int]:
    """How many TCP segments over IPv4 tshark sees that are no later fragments, and the sum of their sizes.

    Of each field the first occurrence is taken, which is the outer header's: an ICMP error that quotes a
    segment is ICMP.
    """
    fields = ["frame.protocols", "ip.proto", "ip.frag_offset", "ip.len"]
    command = ["tshark", "-n", "-r", str(capture), "-o", "ip.defragment:FALSE", "-o", "ip.tso_support:FALSE"]
    command += ["-Y", "ip", "-T", "fields", "-E", "occurrence=f", "-E", "separator=,"]
    for name in fields:
        command += ["-e", name]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sizes = []
    for line in output.splitlines():
        protocols, proto, fragment_offset, length = line.split(",")
        below_ip = protocols.split(":ip")[0]  # "eth:ethertype", with a ":vlan:ethertype" for each tag
        outermost = below_ip.replace(":vlan", "").replace(":ethertype", "") == "eth"
        if outermost and proto == "6" and fragment_offset == "0":
            sizes.append(int(length))
    return len(sizes), sum(sizes)


@pytest.mark.traces
def test_segments_of_real_captures_are_those_that_tshark_sees() -> None:
    """As many of them, and as many bytes in them."""
    captures = list(sample())
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")

    def ask_oracle(capture: Path) -> tuple[int, int]:
        segments = [oracle.decode(frame) for _, frame in oracle.read_pcap(capture)]
        sizes = [segment.ip_bytes for segment in segments if isinstance(segment, oracle.Segment)]
        counted = counters(oracle.read_pcap(capture))
        assert len(sizes) == counted["tracked"] + counted["untracked"]
        return len(sizes), sum(sizes)

    asked = {str(capture): ask_tshark(capture) for capture in captures}
    assert sum(count for count, _ in asked.values()) > 0
    assert asked == {str(capture): ask_oracle(capture) for capture in captures}


@pytest.mark.traces
def test_every_packet_of_real_captures_is_accounted_for() -> None:
    """Fates add up to the packets, and connections to the tracked ones."""
    tracked = 0
    for capture in sample():
        packets = list(oracle.read_pcap(capture))
        counted = counters(packets)
        found = connections(packets)
        assert len(packets) == sum(counted.values())
        assert counted["tracked"] == sum(each.s.packets + each.d.packets for each in found)
        tracked += counted["tracked"]
    assert tracked > 0
