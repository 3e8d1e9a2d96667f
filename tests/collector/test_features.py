"""The 17 features: order, formulas on numbers worked out by hand, and what is undefined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from collector.features import CHUNK, FEATURES, NAMES, matrix
from collector.records import FLOW, Reason, Rows, joined

S = 1_000_000_000


def flow(
    originator: dict[str, Any], responder: dict[str, Any] | None = None, reason: Reason = Reason.FIN
) -> Rows:
    """One row. A side is given by packets, bytes, ttl (of all its segments), first, last, handshake (s)."""
    rows = np.zeros(1, dtype=FLOW)
    for side, given in enumerate((originator, responder or {})):
        if not given:
            continue
        target = rows["side"][0, side]
        target["gate"] = given["packets"] << 12
        target["bytes"] = given["bytes"]
        target["ttl_first"] = 256 + given["ttl"]
        target["first_ns"] = round(given["first"] * S)
        target["last_ns"] = round(given["last"] * S)
        target["handshake_ns"] = round(given.get("handshake", 0) * S)
    rows["reason"] = reason
    return rows


def features(rows: Rows) -> dict[str, float]:
    return dict(zip(NAMES, matrix(rows)[0].tolist(), strict=True))


def test_names_and_order() -> None:
    """The order is the contract of every model."""
    assert NAMES == (
        "dur",
        "proto",
        "s_bytes_sum",
        "d_bytes_sum",
        "s_ttl_mean",
        "d_ttl_mean",
        "s_load",
        "d_load",
        "s_pkt_cnt",
        "d_pkt_cnt",
        "s_bytes_mean",
        "d_bytes_mean",
        "s_iat_mean",
        "d_iat_mean",
        "tcp_rtt",
        "syn_ack",
        "ack_dat",
    )
    assert all(feature.meaning and feature.formula for feature in FEATURES)


def test_a_whole_connection() -> None:
    """Every formula, on numbers that can be followed in the head."""
    found = features(
        flow(
            {"packets": 5, "bytes": 1000, "ttl": 64, "first": 10, "last": 12, "handshake": 10.75},
            {"packets": 3, "bytes": 600, "ttl": 57, "first": 10.5, "last": 14, "handshake": 10.5},
        )
    )

    assert found == {
        "dur": 4.0,
        "proto": 6.0,
        "s_bytes_sum": 1000.0,
        "d_bytes_sum": 600.0,
        "s_ttl_mean": 64.0,
        "d_ttl_mean": 57.0,
        "s_load": 2000.0,
        "d_load": 1200.0,
        "s_pkt_cnt": 5.0,
        "d_pkt_cnt": 3.0,
        "s_bytes_mean": 200.0,
        "d_bytes_mean": 200.0,
        "s_iat_mean": 0.5,
        "d_iat_mean": 1.75,
        "tcp_rtt": 0.75,
        "syn_ack": 0.5,
        "ack_dat": 0.25,
    }


def test_a_lone_syn() -> None:
    """What one segment does not define is NaN: never 0, never infinity."""
    found = features(flow({"packets": 1, "bytes": 60, "ttl": 64, "first": 10, "last": 10}))

    defined = {name: value for name, value in found.items() if not math.isnan(value)}
    assert defined == {
        "dur": 0.0,
        "proto": 6.0,
        "s_bytes_sum": 60.0,
        "d_bytes_sum": 0.0,
        "s_ttl_mean": 64.0,
        "s_pkt_cnt": 1.0,
        "d_pkt_cnt": 0.0,
        "s_bytes_mean": 60.0,
    }


def test_a_silent_responder_over_time() -> None:
    """Its rate is a true 0; its means are undefined."""
    found = features(flow({"packets": 2, "bytes": 120, "ttl": 64, "first": 10, "last": 13}))

    assert found["d_load"] == 0.0
    assert found["s_load"] == 320.0
    assert found["s_iat_mean"] == 3.0
    assert all(math.isnan(found[name]) for name in ("d_bytes_mean", "d_ttl_mean", "d_iat_mean", "tcp_rtt"))


def test_a_handshake_without_its_end() -> None:
    """syn_ack is known, ack_dat is not, and so neither is their sum."""
    found = features(
        flow(
            {"packets": 1, "bytes": 60, "ttl": 64, "first": 10, "last": 10},
            {"packets": 1, "bytes": 60, "ttl": 64, "first": 11, "last": 11, "handshake": 11},
        )
    )

    assert found["syn_ack"] == 1.0
    assert math.isnan(found["ack_dat"])
    assert math.isnan(found["tcp_rtt"])


def test_a_ttl_that_changes() -> None:
    """The kernel keeps the first and the sum of the differences."""
    rows = flow({"packets": 4, "bytes": 240, "ttl": 64, "first": 10, "last": 11})
    rows["side"][0, 0]["ttl_excess"] = -3

    assert features(rows)["s_ttl_mean"] == (4 * 64 - 3) / 4


def test_no_rows() -> None:
    """An empty batch is an empty matrix of the right shape."""
    assert matrix(np.zeros(0, dtype=FLOW)).shape == (0, 17)


def test_rows_do_not_touch_each_other() -> None:
    """A batch is its rows, each on its own, in their order."""
    one = flow({"packets": 1, "bytes": 60, "ttl": 64, "first": 10, "last": 10})
    two = flow({"packets": 2, "bytes": 120, "ttl": 1, "first": 10, "last": 13})

    both = matrix(np.concatenate([one, two, one]))

    np.testing.assert_array_equal(both, np.concatenate([matrix(one), matrix(two), matrix(one)]))


def test_many_at_once_are_as_one_by_one() -> None:
    """More than are made at a time."""
    count = 2 * CHUNK + 3
    rows = joined([flow({"packets": 3, "bytes": 200, "ttl": 64, "first": 1, "last": 3})] * count)
    rows["side"][:, 0]["bytes"] += np.arange(count, dtype=np.uint64)

    found = matrix(rows)

    assert found.shape == (count, len(NAMES))
    one_by_one = np.concatenate([matrix(rows[number : number + 1]) for number in range(count)])
    np.testing.assert_array_equal(found, one_by_one)
