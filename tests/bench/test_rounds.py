"""What the benchmarks say of numbers; none of these tests is about time."""

from __future__ import annotations

import pytest

from tests.bench.__main__ import BEGIN, END, between_marks
from tests.bench.rounds import in_turns, ratios, spread, table


def test_everything_has_its_turn_and_each_is_first() -> None:
    """Once a round, each round beginning with the next; what warms up is not kept."""
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = in_turns({name: lambda name=name: turn(name) for name in "abc"}, 3)  # type: ignore[misc]

    assert "".join(order) == "abcabcbcacab"
    assert found == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}


def test_ratios_are_of_one_round() -> None:
    """And every round has to be there."""
    assert ratios([2, 6], [1, 2]) == [2, 3]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_a_spread_is_median_and_quartiles() -> None:
    """Of one number, the number."""
    assert spread([5, 1, 2, 3, 4], 1) == "3.0 [2.0 4.0]"
    assert spread([1234.5], 0) == "1,234"


def test_a_table_is_markdown() -> None:
    """One line a row, the numbers to the right."""
    assert table(("what", "ns"), [("a", 1)]) == "| what | ns |\n|---|--:|\n| a | 1 |\n"


def test_the_rest_of_the_page_stays() -> None:
    """Only what is between the marks is new; a page without them is refused."""
    page = f"before\n{BEGIN}old\n{END}after\n"

    assert between_marks(page, "new\n") == f"before\n{BEGIN}new\n{END}after\n"
    with pytest.raises(AssertionError):
        between_marks("before\n", "new\n")
