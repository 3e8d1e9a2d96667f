"""How good answers are, and how good the dullest answer would have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "ClassScore", "calibration", "class_scores", "confusion", "intervals", "scores"]

Classes = npt.NDArray[np.intp]
Counts = npt.NDArray[np.float64]

NAMES = ("accuracy", "balanced_accuracy", "macro_f1")

_RESAMPLES = 1000
_LEVEL = (2.5, 97.5)
_BINS = 10


def scores(truth: Classes, answers: Classes) -> dict[str, float | None]:
    """Accuracy, balanced accuracy (mean recall of the classes) and macro F1 (mean F1 of the classes).

    The means are over the classes that occur in `truth`. Each is between 0 and 1; None without rows.

    Parameters
    ----------
    truth, answers
        Shape (n_rows,), class ids.
    """
    if len(truth) == 0:
        return dict.fromkeys(NAMES)
    counts = _counts(truth, answers, np.zeros(len(truth), np.intp), _n_classes(truth, answers))
    return {name: float(values[0]) for name, values in _scores(*counts).items()}


def intervals(truth: Classes, answers: Classes, captures: Classes) -> dict[str, list[float]] | None:
    """95 % intervals of `scores`, from a bootstrap over captures: connections of one are not independent.

    Captures are drawn with replacement as often as there are captures, 1,000 times; a class that is in none
    of those drawn is not in that draw's means.

    Parameters
    ----------
    captures
        Shape (n_rows,), capture ids; rows of the same id stay together.

    Returns
    -------
    Lower and upper end for each score; None where there are fewer than two captures.
    """
    ids, group = np.unique(captures, return_inverse=True)
    if len(ids) < 2:
        return None
    counts = _counts(truth, answers, group, _n_classes(truth, answers))
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), _RESAMPLES).astype(np.float64)
    resampled = _scores(*(drawn @ count for count in counts))
    return {name: np.percentile(values, _LEVEL).tolist() for name, values in resampled.items()}


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class fared."""

    label: str
    trained: int | None
    """Rows in training; None where that is unknown."""
    rows: int
    """Rows that are of this class."""
    answered: int
    """Rows that were said to be."""
    precision: float | None
    """Share of those said to be that are; None if none was."""
    recall: float | None
    """Share of those that are that were said to be; None if there are none."""
    f1: float | None
    """Harmonic mean of the two; None if there are no rows of the class."""


def class_scores(
    matrix: npt.NDArray[np.intp], labels: tuple[str, ...], trained: dict[str, int] | None
) -> list[ClassScore]:
    """Of each class that occurs, commonest first.

    Parameters
    ----------
    matrix
        As of `confusion`.
    trained
        Label to rows in training.
    """
    right, rows, answered = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        ClassScore(
            label=labels[i],
            trained=None if trained is None else trained.get(labels[i], 0),
            rows=int(rows[i]),
            answered=int(answered[i]),
            precision=float(right[i] / answered[i]) if answered[i] else None,
            recall=float(right[i] / rows[i]) if rows[i] else None,
            f1=float(2 * right[i] / (rows[i] + answered[i])) if rows[i] else None,
        )
        for i in np.argsort(-rows, kind="stable")
        if rows[i] or answered[i]
    ]


def confusion(truth: Classes, answers: Classes, n_classes: int) -> npt.NDArray[np.intp]:
    """Rows of class i that were answered with class j, shape (n_classes, n_classes)."""
    return np.bincount(truth * n_classes + answers, minlength=n_classes**2).reshape(n_classes, n_classes)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether what is said with a probability of 0.8 is right 8 times in 10.

    Attributes
    ----------
    ece
        Expected calibration error: the mean over the rows of how far the accuracy of their bin is from its
        mean probability.
    bins
        Ten of equal width, by the probability of the answer. Of each that is not empty: `from`, `to`, `rows`,
        mean `probability`, `accuracy`.
    """

    ece: float
    bins: list[dict[str, Any]]


def calibration(right: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float64]) -> Calibration:
    """Of answers, of which there is at least one.

    Parameters
    ----------
    right
        Shape (n_rows,): which are.
    probabilities
        Shape (n_rows,): what was said of them.
    """
    in_bin = np.minimum((probabilities * _BINS).astype(np.intp), _BINS - 1)
    bins = []
    for i in np.unique(in_bin):
        here = in_bin == i
        bins.append(
            {
                "from": float(i / _BINS),
                "to": float((i + 1) / _BINS),
                "rows": int(here.sum()),
                "probability": float(probabilities[here].mean()),
                "accuracy": float(right[here].mean()),
            }
        )
    off = sum(one["rows"] * abs(one["accuracy"] - one["probability"]) for one in bins)
    return Calibration(off / len(right), bins)


def _n_classes(truth: Classes, answers: Classes) -> int:
    return int(max(truth.max(), answers.max())) + 1


def _counts(
    truth: Classes, answers: Classes, group: Classes, n_classes: int
) -> tuple[Counts, Counts, Counts]:
    """Of each group and class, shape (n_groups, n_classes): rows answered right, rows, rows so answered."""
    n_groups = int(group.max()) + 1
    right = truth == answers

    def counted(rows: Any, classes: Classes) -> Counts:
        cells = group[rows] * n_classes + classes[rows]
        return np.bincount(cells, minlength=n_groups * n_classes).reshape(n_groups, n_classes).astype(float)

    return counted(right, truth), counted(slice(None), truth), counted(slice(None), answers)


def _scores(right: Counts, rows: Counts, answered: Counts) -> dict[str, Counts]:
    """Each score of each row of counts, shape (n,)."""
    there = rows > 0
    classes = there.sum(axis=1)
    recall = np.divide(right, rows, out=np.zeros_like(right), where=there)
    f1 = np.divide(2 * right, rows + answered, out=np.zeros_like(right), where=there)
    return {
        "accuracy": right.sum(axis=1) / rows.sum(axis=1),
        "balanced_accuracy": recall.sum(axis=1) / classes,
        "macro_f1": f1.sum(axis=1) / classes,
    }
