"""Windows: a device's last connections, in time order, never across captures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml import windows
from ml.dataset import Dataset
from ml.windows import ABSENT, Memory, histories, in_time
from tests.ml.samples import dataset

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-1, 3), st.none() | st.integers(0, 9)), min_size=1, max_size=40
)


def made(rows: list[tuple[int, int, int | None]]) -> Dataset:
    y, captures, seconds = zip(*rows, strict=True)
    return dataset(y, captures=captures, seconds=seconds)


@given(rows=ROWS, length=st.integers(1, 5))
def test_a_window_is_the_past_of_its_device(rows: list[tuple[int, int, int | None]], length: int) -> None:
    """Itself last; before it only earlier rows of its device in its capture, in order, and none left out."""
    data = made(rows)
    order = in_time(data)
    when = np.argsort(order)

    found = histories(data, length)

    assert found.shape == (len(data), length)
    for i, window in enumerate(found):
        past = [j for j in order if when[j] <= when[i] and rows[j][:2] == rows[i][:2]]
        assert window.tolist() == [ABSENT] * (length - len(past)) + past[-length:]


@given(rows=ROWS)
def test_time_order(rows: list[tuple[int, int, int | None]]) -> None:
    """Is by start, and in the file's order among equals; by the file alone if one start is not known."""
    data = made(rows)
    expected = list(range(len(rows)))
    if all(start is not None for _, _, start in rows):
        expected.sort(key=lambda i: rows[i][2] or 0)

    assert in_time(data).tolist() == expected


@given(rows=ROWS, length=st.integers(1, 5), at_once=st.integers(1, 7))
def test_serving_sees_what_training_saw(
    rows: list[tuple[int, int, int | None]], length: int, at_once: int
) -> None:
    """Rows that come in order of time, in batches of any size, have the windows that they had in training."""
    data = made(rows)
    trained = data.X[histories(data, length)].astype(np.float32)
    trained[histories(data, length) == ABSENT] = np.nan
    memory = Memory(length)

    served = np.empty_like(trained)
    order = in_time(data)
    for first in range(0, len(data), at_once):
        part = order[first : first + at_once]
        senders = [(int(data.captures[i]), int(data.y[i])) for i in part]
        served[part] = memory.windows(data.X[part], senders)

    assert served.tobytes() == trained.tobytes()


def test_the_longest_silent_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up senders cannot fill the memory; who goes on sending is remembered."""
    monkeypatch.setattr(windows, "SENDERS", 3)
    memory = Memory(2)
    X = np.arange(7.0)[:, None] * np.ones(17)

    found = memory.windows(X, ["a", "b", "a", "c", "d", "a", "b"])

    before = found[:, 0, 0]
    assert np.isnan(before[[0, 1, 3, 4, 6]]).all()
    assert before[[2, 5]].tolist() == [0.0, 2.0]


def test_forget() -> None:
    """After it every row is the first of its device."""
    memory = Memory(2)
    memory.windows(np.ones((1, 17)), ["a"])

    memory.forget()

    assert np.isnan(memory.windows(np.ones((1, 17)), ["a"])[0, 0]).all()
