"""When the loop leaves the rings alone for a while. Times are made up: nothing here waits."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import pytest

from collector.pace import Pace

ROOM = 20_000
"""Connections in a ring of the size that is usual."""
REST_S = 0.005


def rests(pace: Pace, connections: int, now: float) -> float:
    """Takes a batch; how long the rings are left alone after it."""
    pace.took(connections, now)
    return max(0.0, pace.rests_until - now)


def test_connections_that_end_now_and_then_are_never_waited_with() -> None:
    """A hundred a second, and a browser's eight at once every second."""
    pace = Pace(ROOM)
    assert [rests(pace, 1, 50 + number / 100) for number in range(1000)] == [0.0] * 1000
    assert [rests(pace, 8, 100.0 + second) for second in range(10)] == [0.0] * 10


def batches(ends: Sequence[float]) -> list[int]:
    """Connections in each batch, where these are the times at which they end, and taking them takes none."""
    pace, taken = Pace(ROOM), 0
    found = []
    while taken < len(ends):
        now = max(ends[taken], pace.rests_until)
        found.append(bisect.bisect_right(ends, now) - taken)
        taken += found[-1]
        pace.took(found[-1], now)
    return found


def test_what_comes_quickly_is_left_to_gather() -> None:
    """Four thousand a second, one by one: nine are taken as they come, then those of five milliseconds."""
    found = batches([50 + number / 4000 for number in range(4000)])

    assert found[:9] == [1] * 9
    assert set(found[10:-1]) <= {20, 21}


def test_a_rest_is_short_and_over_by_itself() -> None:
    """However much came before it, nothing of it is left for a connection that comes alone."""
    pace = Pace(ROOM)
    for number in range(100):
        assert rests(pace, 1000, 50 + REST_S * number) == pytest.approx(REST_S)
    assert rests(pace, 1, 51.0) == 0.0


def test_a_batch_that_is_large_already_is_followed_by_another_at_once() -> None:
    """The ring may be filling faster than it is read."""
    assert rests(Pace(ROOM), 1024, 50.0) == 0.0


@pytest.mark.parametrize(("room", "expected"), [(20, 0.0), (3999, 0.0), (8000, 0.002), (10**7, REST_S)])
def test_half_a_ring_has_room_for_what_comes_during_a_rest(room: int, expected: float) -> None:
    """At two million connections a second. A rest of less than a millisecond cannot be had."""
    assert rests(Pace(room), 100, 50.0) == pytest.approx(expected)
