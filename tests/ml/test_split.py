"""Rows held out: what may never be on both sides, and what is always in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import DatasetError
from ml.dataset import NO_CAPTURE, Dataset
from ml.split import WAYS, hold_out
from tests.ml.samples import dataset

ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(NO_CAPTURE, 6), st.none() | st.integers(0, 30)), min_size=1
)


def made(rows: list[tuple[int, int, int | None]]) -> Dataset:
    y, captures, seconds = zip(*rows, strict=True)
    present = sorted(set(y))
    return dataset([present.index(label) for label in y], captures=captures, seconds=seconds)


@given(rows=ROWS, seed=st.integers(0, 5), share=st.floats(0.01, 0.5), by=st.sampled_from([None, "row"]))
def test_sides(rows: list[tuple[int, int, int | None]], seed: int, share: float, by: str | None) -> None:
    """Each row is on one side, and every class has rows in training, whatever is asked for."""
    data = made(rows)

    split = hold_out(data, seed, share=share, by=by)

    assert sorted([*split.train, *split.test]) == list(range(len(data)))
    assert set(data.y[split.train]) == set(range(len(data.classes)))


@given(rows=ROWS, seed=st.integers(0, 5))
def test_no_capture_on_both_sides(rows: list[tuple[int, int, int | None]], seed: int) -> None:
    """A split by capture leaves every capture whole, and so the rows that do not name one."""
    data = made(rows)

    split = hold_out(data, seed)

    if split.by == "capture":
        assert set(data.captures[split.train]) & set(data.captures[split.test]) == set()
        assert len(split.test) > 0


@given(rows=ROWS)
def test_time_does_not_run_backwards(rows: list[tuple[int, int, int | None]]) -> None:
    """In a split by time every row held out of a class starts after all those of it in training."""
    data = made([(label, NO_CAPTURE, 0 if start is None else start) for label, _, start in rows])

    split = hold_out(data, 0)

    assert split.by in ("time", "none")
    if split.by == "time":
        for i in set(data.y[split.test]):
            train, test = (data.start[side][data.y[side] == i] for side in (split.train, split.test))
            assert train.max() < test.min()


def test_captures_come_first() -> None:
    """Captures decide where there are several, even if there are start times too."""
    data = dataset([0, 1] * 10, captures=[i // 2 for i in range(20)], seconds=range(20))

    split = hold_out(data, 0)

    assert split.by == "capture"
    assert split.meaning == "whole captures"
    assert len(split.test) == 4


def test_time_comes_second() -> None:
    """Without captures the last fifth of each class is held out, in whatever order the rows are."""
    seconds = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    data = dataset([0] * 5 + [1] * 5, seconds=seconds)

    split = hold_out(data, 0)

    assert split.by == "time"
    assert split.test.tolist() == [0, 5]


def test_rows_are_only_parted_at_random_when_asked() -> None:
    """Without captures and with a start time missing nothing is held out, and the text says why and how."""
    data = dataset([0] * 50 + [1] * 10, seconds=[*range(59), None])

    split, asked = hold_out(data, 0), hold_out(data, 0, by="row")

    assert (split.by, len(split.test)) == ("none", 0)
    assert split.meaning == (
        "the rows do not name two captures and there are rows without a start time; "
        "--group-by row holds out rows at random"
    )
    assert asked.by == "row"
    assert "flatters" in asked.meaning
    assert np.bincount(data.y[asked.test]).tolist() == [10, 2]


def test_what_is_asked_for_is_done() -> None:
    """By time where there are captures too; a larger share holds more out."""
    data = dataset([0, 1] * 10, captures=[i // 2 for i in range(20)], seconds=range(20))

    assert hold_out(data, 0, by="time").test.tolist() == [16, 17, 18, 19]
    assert hold_out(data, 0, by="time", share=0.5).test.tolist() == list(range(10, 20))
    assert len(hold_out(data, 0, by="capture", share=0.4).test) == 8


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("capture", "nothing can be held out by capture: the rows do not name two captures; "),
        ("time", "nothing can be held out by time: there are rows without a start time; "),
    ],
)
def test_what_is_asked_for_and_cannot_be_done(by: str, message: str) -> None:
    """It is refused; nothing else is done in its place."""
    with pytest.raises(DatasetError) as refused:
        hold_out(dataset([0, 0, 1, 1]), 0, by=by)

    assert str(refused.value) == message + "leave out --group-by, or name another way"
    assert by in WAYS


def test_class_of_one_capture_stays_in_training() -> None:
    """A capture that holds the only rows of a class is never held out."""
    data = dataset([0, 0, 0, 0, 1], captures=[1, 2, 3, 4, 4], seconds=range(5))

    tested = {int(capture) for seed in range(20) for capture in data.captures[hold_out(data, seed).test]}

    assert tested == {1, 2, 3}


def test_largest_capture_stays_in_training() -> None:
    """A capture with more than half of a class is never held out."""
    captures = [1] * 90 + [2] * 10 + [3] * 90 + [4] * 10
    data = dataset([0] * 100 + [1] * 100, captures=captures)

    for seed in range(10):
        assert set(data.captures[hold_out(data, seed).test]) == {2, 4}


def test_captures_that_cannot_be_parted() -> None:
    """Where every class is in one capture only, time decides, and the text says why."""
    data = dataset([0] * 5 + [1] * 5, captures=[1] * 5 + [2] * 5, seconds=range(10))

    split = hold_out(data, 0)

    assert split.by == "time"
    assert split.meaning.endswith("because no capture can be spared without taking most of a class with it")


def test_same_instant_stays_together() -> None:
    """Rows of one instant are on one side."""
    data = dataset([0] * 6 + [1] * 2, seconds=[0, 1, 2, 2, 2, 2, 5, 5])

    assert hold_out(data, 0).test.tolist() == [2, 3, 4, 5]


def test_single_rows() -> None:
    """Classes of a single row stay in training; where there are no others, nothing is held out."""
    assert hold_out(dataset([0, 1, 2]), 0, by="row").test.tolist() == []
    assert 2 not in hold_out(dataset([0, 0, 2, 1, 1], captures=[0, 1, 2, 3, 4]), 0).test.tolist()


def test_seed() -> None:
    """The same seed holds the same rows out; another holds out others."""
    data = dataset([0, 1] * 50, captures=range(100))

    for by in ("capture", "row"):
        one, again, other = (hold_out(data, seed, by=by).test.tolist() for seed in (1, 1, 2))
        assert one == again
        assert one != other
