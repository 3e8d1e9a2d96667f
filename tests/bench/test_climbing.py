"""The search for the highest rate, over steps of which it is known which hold."""

from __future__ import annotations

import pytest

from tests.bench.climbing import climb

STEPS = 28


def tries(highest: int, begin: int) -> list[int]:
    """The steps that are tried where `highest` and all below it hold."""
    tried: list[int] = []

    def holds(step: int) -> bool:
        tried.append(step)
        return step <= highest

    assert climb(holds, begin, STEPS) == highest
    return tried


@pytest.mark.parametrize("highest", range(-1, STEPS))
def test_it_is_found_from_anywhere(highest: int) -> None:
    """No step is tried twice, and there are never many."""
    for begin in range(STEPS):
        tried = tries(highest, begin)
        assert len(set(tried)) == len(tried) <= 11


def test_two_tries_do_where_it_is_where_it_was() -> None:
    """And three where it is the next one up."""
    assert tries(12, 12) == [12, 13]
    assert tries(11, 12) == [12, 11]
    assert tries(13, 12) == [12, 13, 14]
