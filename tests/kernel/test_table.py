"""The flow table: full, its ring full, its sweep, its filter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from collector.drain import still_held
from collector.records import SweepMode, joined
from tests import frames
from tests.compare import raw_of_rows
from tests.replay import Replay

pytestmark = pytest.mark.kernel

MS = 1_000_000
START = 10**15
RECORD = 200  # bytes of a finished flow in the ring


def syn(number: int) -> bytes:
    return frames.tcp("S", sport=1024 + number)


BACK: dict[str, Any] = {"src": frames.SERVER[0], "dst": frames.CLIENT[0], "sport": frames.SERVER[1]}


def rst(number: int) -> bytes:
    return frames.tcp("R", sport=1024 + number)


def syn_ack(number: int) -> bytes:
    return frames.tcp("SA", **BACK, dport=1024 + number)


def test_a_full_table_refuses_and_counts_and_loses_none_that_it_holds() -> None:
    """Of 13 connections 7 find a slot; 6 are counted; once one ends there is room for the next."""
    with Replay(max_connections=7) as replay:
        for number in range(13):
            replay.send(START + number, syn(number))
            replay.send(START + number, syn_ack(number))
        assert replay.counters()["table_full"] == 6
        assert replay.counters()["opened"] == 7

        replay.send(START + 20, rst(3))
        replay.send(START + 21, syn(12))
        rows = replay.finish()

        ports = sorted(raw["src"][1] - 1024 for raw in raw_of_rows(rows))
        assert ports == [0, 1, 2, 3, 4, 5, 6, 12]
        assert replay.counters()["table_full"] == 6


@pytest.mark.parametrize("ip", ["4", "both"])
def test_a_flood_of_syns_takes_room_from_itself(ip: str) -> None:
    """A table with connections that were answered: 1,000 SYNs later they are all there, and go on;
    those of the flood were evicted, or are still there, and every one of them is accounted for."""
    answered, room, flood = 13, 107, 1009
    with Replay(max_connections=room, ip=ip) as replay:
        for number in range(answered):
            replay.send(START + number, syn(number))
            replay.send(START + number, syn_ack(number))
        found = []
        for number in range(answered, answered + flood):
            replay.send(START + number, syn(number))
            found.append(replay.read())
        counters = replay.counters()
        for number in range(answered):
            replay.send(START + 2000, rst(number))
        raws = raw_of_rows(joined([*found, replay.finish()]))

    of = {raw["src"][1] - 1024: raw for raw in raws}
    assert sorted(of) == list(range(answered + flood))
    assert all(of[number]["reason"] == "rst" for number in range(answered))
    assert all(of[number]["d"]["packets"] == 1 for number in range(answered))
    reasons = Counter(of[number]["reason"] for number in range(answered, answered + flood))
    assert reasons == {"evicted": counters["evicted"], "shutdown": flood - counters["evicted"]}
    assert counters["evicted"] >= flood - (room - answered)
    assert "table_full" not in {name for name, count in counters.items() if count}


def test_room_is_made_without_hurting_what_was_answered() -> None:
    """Where nothing can go, a newcomer is refused, and what is there stays as it is."""
    with Replay(max_connections=3) as replay:
        for number in range(3):
            replay.send(START, syn(number))
            replay.send(START, syn_ack(number))
        for number in range(3, 20):
            replay.send(START + number, syn(number))
        counters = replay.counters()

        assert (counters["table_full"], counters["evicted"], counters["opened"]) == (17, 0, 3)
        assert [raw["reason"] for raw in raw_of_rows(replay.finish())] == ["shutdown"] * 3


def test_what_finds_the_ring_full_is_delivered_later() -> None:
    """A ring of one page holds 20 flows; 47 end at once; the sweep brings the others, each once."""
    with Replay(ring_bytes=4096) as replay:
        for number in range(47):
            replay.send(START + number, syn(number))
            replay.send(START + number, rst(number))
        counters = replay.counters()
        assert counters["delivered"] == 4096 // RECORD
        assert counters["parked"] == 47 - 4096 // RECORD
        assert still_held(counters) == counters["parked"]

        found = [replay.table.ring.read()]
        for _ in range(3):
            replay.table.sweep(SweepMode.TIMEOUT, START)
            found.append(replay.table.ring.read())
        raws = raw_of_rows(np.concatenate(found))

        assert sorted(raw["src"][1] - 1024 for raw in raws) == list(range(47))
        assert {raw["reason"] for raw in raws} == {"rst"}
        assert still_held(replay.counters()) == 0
        assert replay.counters()["parked"] == 47 - 4096 // RECORD


def test_the_tuple_of_a_parked_flow_can_begin_anew() -> None:
    """What waits for the ring is out of the way of the next connection of its tuple."""
    with Replay(ring_bytes=4096) as replay:
        for number in range(21):
            replay.send(START, syn(number))
            replay.send(START, rst(number))
        replay.send(START + 5, syn(20))

        raws = [raw for raw in raw_of_rows(replay.finish()) if raw["src"][1] == 1024 + 20]

        assert sorted(raw["reason"] for raw in raws) == ["rst", "shutdown"]


def test_the_ring_goes_round() -> None:
    """Records that wrap around the ring's end come out whole, many times over."""
    with Replay(ring_bytes=4096) as replay:
        for number in range(1009):
            replay.send(START + number, syn(number))
            replay.send(START + number, rst(number))
            (raw,) = raw_of_rows(replay.table.ring.read())
            assert raw["src"] == ("10.0.0.1", 1024 + number)
            assert raw["s"]["packets"] == 2


@pytest.mark.parametrize(
    ("answered", "after_ms", "reason"),
    [
        (False, 5000, None),
        (False, 5001, "establish"),
        (True, 5001, None),
        (True, 300_000, None),
        (True, 300_001, "idle"),
    ],
)
def test_the_sweep_ends_what_timed_out(
    replay: Replay, answered: bool, after_ms: int, reason: str | None
) -> None:
    """Strictly later than the timeout of the state that the connection is in; never earlier."""
    replay.send(START, syn(0))
    if answered:
        replay.send(START, frames.tcp("A", sport=1024))

    replay.table.sweep(SweepMode.TIMEOUT, START + after_ms * MS)

    found = [raw["reason"] for raw in raw_of_rows(replay.table.ring.read())]
    assert found == ([] if reason is None else [reason])


def test_the_filter_leaves_out_what_is_no_tls() -> None:
    """With the filter tls a plain connection is counted as filtered, and not delivered."""
    with Replay(tls_only=True) as replay:
        for number, payload in enumerate([b"GET / HTTP/1.1", frames.CLIENT_HELLO]):
            replay.send(START, frames.tcp("S", sport=1024 + number, seq=7))
            replay.send(START, frames.tcp("A", payload, sport=1024 + number, seq=8))

        (raw,) = raw_of_rows(replay.finish())

        assert raw["src"][1] == 1025
        assert raw["tls"]
        assert replay.counters()["filtered"] == 1
        assert replay.counters()["delivered"] == 1


def test_slots_are_used_again(replay: Replay) -> None:
    """Ten tables' worth of connections, one after the other, need a handful of slots."""
    before = int(replay.table._sweep["high_water"][0])
    for number in range(40_000):
        replay.send(START + number, syn(number))
        replay.send(START + number, rst(number))
        if number % 1000 == 0:
            replay.table.ring.read()
    replay.table.ring.read()

    assert replay.counters()["table_full"] == 0
    assert int(replay.table._sweep["high_water"][0]) == max(before, 1)
