"""Connections for the tests of captures, and flowml's answer beside the oracle's."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from collector.captures import Source, lines_of
from collector.formatter import Formatter
from collector.replay import Limits
from tests.compare import RELATIVE
from tests.frames import (
    CLIENT,
    CLIENT_HELLO,
    CLIENT_MAC,
    SERVER,
    SERVER_MAC,
    answer,
    ethernet,
    ipv4,
    tcp,
    tcp6,
    vlan,
)
from tests.oracle import ESTABLISH_TIMEOUT_MS, INACTIVITY_TIMEOUT_MS, NS_PER_S, Connection, Oracle
from tests.tool import FLOWML

__all__ = ["EXAMPLE", "Packet", "Record", "command", "extracted", "fates", "record_of", "records", "same"]

Packet = tuple[int, bytes]  # time in nanoseconds, frame
Record = dict[str, Any]  # a line of flowml's

ROUNDED_MORE_THAN_ONCE = {"s_load", "d_load", "s_iat_mean", "d_iat_mean", "tcp_rtt"}
"""Features that take several operations of float64 where the oracle takes one; the others are equal."""

BEGIN = 1_700_000_000 * NS_PER_S


def _example() -> list[Packet]:
    """Connections that end in every way there is, and packets of every fate; times in whole milliseconds."""
    hello = CLIENT_HELLO

    def from_client(port: int, flags: str, payload: bytes = b"", **fields: Any) -> bytes:
        return tcp(flags, payload, sport=port, **fields)

    def from_server(port: int, flags: str, payload: bytes = b"", **fields: Any) -> bytes:
        (src, sport), (dst, _) = SERVER, CLIENT
        macs: dict[str, Any] = {"src_mac": SERVER_MAC, "dst_mac": CLIENT_MAC}
        return tcp(flags, payload, src=src, sport=sport, dst=dst, dport=port, **macs, **fields)

    script: list[tuple[int, bytes]] = [  # milliseconds, frame
        # TLS, its hello in two segments, ended by FIN from both.
        (0, from_client(1001, "S", seq=100)),
        (7, from_server(1001, "SA", seq=500, ack=101)),
        (9, from_client(1001, "A", seq=101)),
        (10, from_client(1001, "PA", hello[:3], seq=101)),
        (11, from_client(1001, "PA", hello[3:], seq=104)),
        (30, from_server(1001, "PA", bytes(1400), seq=501, ttl=57)),
        (41, from_client(1001, "FA", seq=122)),
        (45, from_server(1001, "FA", seq=1901)),
        (46, from_client(1001, "A", seq=123)),  # to no entry
        # Padded frames, a SYN said three times, a reset; no TLS.
        (1, from_client(1002, "S", seq=7, pad=True)),
        (1001, from_client(1002, "S", seq=7, pad=True)),
        (3001, from_client(1002, "S", seq=7, pad=True)),
        (3004, from_server(1002, "SA", seq=9, pad=True)),
        (3006, from_client(1002, "PA", b"GET /", seq=8)),
        (3010, from_server(1002, "RA", seq=10, pad=True)),
        # Behind one tag, and behind two; left open.
        (20, vlan(from_client(1003, "S", seq=50), 7)),
        (22, vlan(from_server(1003, "SA", seq=70), 7)),
        (23, vlan(from_client(1003, "A", hello, seq=51), 7)),
        (25, vlan(vlan(from_client(1004, "S", seq=50), 7), 8, tpid=0x88A8)),
        # No answer; the same tuple again, after its timeout.
        (100, from_client(1005, "S")),
        (5101, from_client(1005, "S")),
        (5102, from_server(1005, "RA")),
        # Silent for longer than the inactivity timeout, then another SYN.
        (200, from_client(1006, "S", options=b"\x02\x04\x05\xb4")),
        (210, from_server(1006, "SA")),
        (300_211, from_client(1006, "S")),
        # Of no connection.
        (50, ethernet(bytes(28), ethertype=0x0806)),
        (51, tcp6("S")),
        (52, ethernet(ipv4(bytes(20), proto=17))),
        (53, ethernet(ipv4(bytes(64), fragment_offset=185))),
        (54, tcp("S", ihl=4)),
        (55, tcp("S")[:40]),
        (56, answer("A", b"data")),
    ]
    return [(BEGIN + ms * 1_000_000, frame) for ms, frame in sorted(script, key=lambda one: one[0])]


EXAMPLE = _example()


def extracted(
    data: bytes | Path, *, tls_only: bool = False, max_connections: int = 1000, name: str = "capture"
) -> tuple[list[Record], Counter[str], str]:
    """What `flowml extract` writes of a capture, parsed; its counters; its trouble, if any."""
    if isinstance(data, Path):
        fd = os.open(data, os.O_RDONLY)
    else:
        fd = os.memfd_create("capture")
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
    limits = Limits(
        max_connections=max_connections,
        tcp_establish_timeout=ESTABLISH_TIMEOUT_MS,
        tcp_inactivity_timeout=INACTIVITY_TIMEOUT_MS,
        tls_only=tls_only,
    )
    parts: list[bytes] = []
    counted = 0

    def write(lines: bytes, count: int) -> None:
        nonlocal counted
        parts.append(lines)
        counted += count

    formatter = Formatter(None, as_record=True, with_features=True)
    try:
        outcome = lines_of(Source(name, fd), limits, formatter, write, -1, lambda _: None)
    finally:
        os.close(fd)
    records = [json.loads(line) for line in b"".join(parts).splitlines()]
    assert len(records) == counted
    return records, outcome.counts, outcome.trouble


def command(*arguments: str | bytes | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """`flowml extract` to its end, lines on standard output unless told otherwise; `stdin` in a pipe."""
    where = () if "--outfile" in arguments else ("--outfile", "-")
    return subprocess.run(
        [str(FLOWML), "extract", *arguments, *where],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


def record_of(connection: Connection, *, capture: str = "capture", has_mac: bool = True) -> Record:
    """The line that a connection of the oracle's makes."""
    seconds, rest = divmod(connection.start_ns, NS_PER_S)
    second = datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None).isoformat()
    return {
        "start": f"{second}.{rest:09}Z",
        "iface": None,
        "capture": capture,
        "src_ip": connection.src_ip,
        "src_port": connection.src_port,
        "dst_ip": connection.dst_ip,
        "dst_port": connection.dst_port,
        "s_mac": connection.s_mac if has_mac else None,
        "tls": connection.tls,
        "reason": connection.reason,
        **connection.features(),
    }


def records(packets: Iterable[Packet], *, has_mac: bool = True, capture: str = "capture") -> list[Record]:
    """The lines of the oracle's connections in Ethernet frames, by start, then by originator."""
    oracle = Oracle()
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    ordered = sorted(oracle.finish(), key=lambda one: (one.start_ns, _number(one.src_ip), one.src_port))
    return [record_of(one, has_mac=has_mac, capture=capture) for one in ordered]


def _number(address: str) -> tuple[int, ...]:
    return tuple(map(int, address.split(".")))


def fates(packets: Iterable[Packet]) -> dict[str, int]:
    """The fates that any packet met, after the oracle."""
    oracle = Oracle()
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    return {fate: count for fate, count in oracle.counters.items() if count}


def same(ours: Sequence[Record], theirs: Sequence[Record]) -> bool:
    """Whether flowml's lines are the oracle's, member by member and in the same order.

    Everything is equal but the features that are rounded more than once; those agree to `RELATIVE`. Where
    lines differ, the assertion tells how.
    """
    assert [list(one) for one in ours] == [list(one) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        near = {name: other[name] for name in ROUNDED_MORE_THAN_ONCE}
        assert one == other | {
            name: value if value is None else pytest.approx(value, rel=RELATIVE, abs=0)
            for name, value in near.items()
        }
    return True
