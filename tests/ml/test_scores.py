"""Scores, against numbers worked out by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from ml.scores import calibration, class_scores, confusion, intervals, scores

TRUTH, ANSWERS = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-1, 4)), min_size=1, max_size=60)


def test_scores() -> None:
    """Means are over the classes that occur in the truth; an answer of another class is only wrong."""
    # Recall 3/4 and 1/2; precision 3/3 and 1/2; F1 6/7 and 1/2.
    assert scores(TRUTH, ANSWERS) == {
        "accuracy": pytest.approx(4 / 6),
        "balanced_accuracy": pytest.approx(5 / 8),
        "macro_f1": pytest.approx((6 / 7 + 1 / 2) / 2),
    }


@given(PAIRS)
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int, int]]) -> None:
    """For any truth and any answers."""
    truth, answers, _ = map(np.array, zip(*pairs, strict=True))
    there = np.unique(truth)

    assert scores(truth, answers) == {
        "accuracy": pytest.approx(accuracy_score(truth, answers)),
        "balanced_accuracy": pytest.approx(
            recall_score(truth, answers, labels=there, average="macro", zero_division=0)
        ),
        "macro_f1": pytest.approx(f1_score(truth, answers, labels=there, average="macro", zero_division=0)),
    }
    assert confusion(truth, answers, 7).tolist() == confusion_matrix(truth, answers, labels=range(7)).tolist()


def test_nothing_to_score() -> None:
    """Without rows there is no score, and no warning."""
    none = np.array([], dtype=np.intp)

    assert scores(none, none) == {"accuracy": None, "balanced_accuracy": None, "macro_f1": None}


@given(PAIRS)
def test_intervals_hold_something(pairs: list[tuple[int, int, int]]) -> None:
    """They lie in 0 to 1, the lower end first, and there are none of a single capture."""
    truth, answers, captures = map(np.array, zip(*pairs, strict=True))

    found = intervals(truth, answers, captures)

    assert (found is None) == (len(set(captures.tolist())) < 2)
    for low, high in (found or {}).values():
        assert 0 <= low <= high <= 1


def test_intervals_are_over_captures() -> None:
    """A hundred rows of one capture tell as little as one: copies of a capture's rows make it no narrower."""
    random = np.random.default_rng(1)
    right = random.random(40) < 0.7
    truth, captures = np.arange(40) % 2, np.arange(40)
    answers = np.where(right, truth, 1 - truth)

    few = intervals(truth, answers, captures)
    many = intervals(np.repeat(truth, 100), np.repeat(answers, 100), np.repeat(captures, 100))

    assert few is not None
    assert few == many
    low, high = few["accuracy"]
    spread = (high - low) / (2 * 1.96)  # of a normal distribution, which forty draws are near to
    share = right.mean()
    assert spread == pytest.approx(np.sqrt(share * (1 - share) / 40), rel=0.15)


def test_class_scores() -> None:
    """Commonest first; what cannot be said is None; a class that does not occur is left out."""
    first, second, third = class_scores(
        confusion(TRUTH, ANSWERS, 4), ("a", "b", "c", "d"), {"a": 5, "b": 6, "d": 9}
    )

    assert (first.label, first.trained, first.rows, first.answered) == ("a", 5, 4, 3)
    assert (first.precision, first.recall) == (1.0, 0.75)
    assert first.f1 == pytest.approx(6 / 7)
    assert (second.label, second.precision, second.recall) == ("b", 0.5, 0.5)
    assert (third.label, third.trained, third.rows, third.answered) == ("c", 0, 0, 1)
    assert (third.precision, third.recall, third.f1) == (0.0, None, None)


def test_calibration() -> None:
    """The error is the mean distance of a bin's accuracy from its mean probability, by rows."""
    found = calibration(np.array([True, False, True, True]), np.array([0.81, 0.89, 0.32, 1.0]))

    assert found.bins == [
        {"from": 0.3, "to": 0.4, "rows": 1, "probability": pytest.approx(0.32), "accuracy": 1.0},
        {"from": 0.8, "to": 0.9, "rows": 2, "probability": pytest.approx(0.85), "accuracy": 0.5},
        {"from": 0.9, "to": 1.0, "rows": 1, "probability": 1.0, "accuracy": 1.0},
    ]
    assert found.ece == pytest.approx((0.68 + 2 * 0.35 + 0) / 4)
