"""Scores, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ml.scores import majority_accuracy, scores


def test_scores() -> None:
    """Means are over the classes that occur in the truth; an answer of another class is only wrong."""
    truth, answers = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])

    # Recall 3/4 and 1/2; precision 3/3 and 1/2; F1 6/7 and 1/2.
    assert scores(truth, answers) == {
        "accuracy": pytest.approx(4 / 6),
        "balanced_accuracy": pytest.approx(5 / 8),
        "macro_f1": pytest.approx((6 / 7 + 1 / 2) / 2),
    }


def test_nothing_to_score() -> None:
    """Without rows there is no score, and no warning."""
    none = np.array([], dtype=np.intp)

    assert scores(none, none) == {"accuracy": None, "balanced_accuracy": None, "macro_f1": None}
    assert majority_accuracy(np.array([0, 1]), none) is None


def test_majority_is_that_of_training() -> None:
    """The commonest class is the one known beforehand, not the one that is commonest in the test."""
    assert majority_accuracy(np.array([1, 1, 0]), np.array([0, 0, 0, 1])) == 0.25
