"""A row of the product beside a connection of the oracle, in the same raw integers."""

from __future__ import annotations

import ipaddress
from typing import Any

from collector import records
from collector.features import NAMES, matrix
from collector.records import ORIGINATOR, RESPONDER, Reason, Rows
from tests.oracle import Connection

Raw = dict[str, Any]

RELATIVE = 4e-16 * 8
"""Of a feature: a few roundings of float64, where the oracle rounds once."""


def raw_of_rows(rows: Rows) -> list[Raw]:
    """Everything that was counted, as Python integers."""
    saddr, sport, daddr, dport = records.endpoints(rows)
    of = records.sides(rows)
    segments = records.packets(of)
    columns = {
        "packets": segments,
        "bytes": of["bytes"],
        "ttl_sum": records.ttl_sum(of, segments),
        "first_ns": of["first_ns"],
        "last_ns": of["last_ns"],
        "handshake_ns": of["handshake_ns"],
    }
    tls = records.is_tls(rows)
    return [
        {
            "src": (address(saddr[i], rows[i]["ip_version"]), int(sport[i])),
            "dst": (address(daddr[i], rows[i]["ip_version"]), int(dport[i])),
            "s_mac": rows["source_mac"][i].tobytes().hex(":"),
            "tls": bool(tls[i]),
            "reason": Reason(int(rows["reason"][i])).name.lower(),
            "s": {name: int(column[ORIGINATOR, i]) for name, column in columns.items()},
            "d": {name: int(column[RESPONDER, i]) for name, column in columns.items()},
        }
        for i in range(len(rows))
    ]


def raw_of_connection(connection: Connection) -> Raw:
    """The same of the oracle's. What was not seen is 0 here, as it is in the kernel."""

    def side(one: Any, handshake_ns: int | None) -> Raw:
        return {
            "packets": one.packets,
            "bytes": one.bytes,
            "ttl_sum": one.ttl_sum,
            "first_ns": one.first_ns or 0,
            "last_ns": one.last_ns or 0,
            "handshake_ns": handshake_ns or 0,
        }

    return {
        "src": (connection.src_ip, connection.src_port),
        "dst": (connection.dst_ip, connection.dst_port),
        "s_mac": connection.s_mac,
        "tls": connection.tls,
        "reason": connection.reason,
        "s": side(connection.s, connection.ack_ns),
        "d": side(connection.d, connection.syn_ack_ns),
    }


def in_order(raws: list[Raw]) -> list[Raw]:
    """By start, then by endpoints: the order in which a table is swept is nobody's business."""
    return sorted(raws, key=lambda raw: (raw["s"]["first_ns"], raw["src"], raw["dst"]))


def address(value: bytes, version: int) -> str:
    """The text of 16 bytes, whose last zeros numpy leaves out; IPv4 is ::ffff:a.b.c.d there."""
    whole = value.ljust(16, b"\0")
    return str(ipaddress.IPv6Address(whole) if version == 6 else ipaddress.IPv4Address(whole[12:]))


def features_of_rows(rows: Rows) -> list[dict[str, float]]:
    """The matrix, as one dict a row."""
    return [dict(zip(NAMES, line, strict=True)) for line in matrix(rows).tolist()]
