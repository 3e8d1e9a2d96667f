"""Which rows a model is scored on: rows that were held out of training.

Connections of one recording resemble each other more than they resemble those of another day, so a split
by row flatters. What is held out, unless it is said how, is the first of these that the data allows:

1. by capture: whole captures are on one side;
2. by time: the last rows of every class. Not the last of all rows: where devices were recorded one after
   another, that would hold out whole classes, which no model can then know;
3. nothing.

By row, at random, is only done when it is asked for. Every class keeps rows in training, whatever the split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collector.errors import DatasetError
from ml.dataset import Dataset

__all__ = ["SHARE", "WAYS", "Split", "hold_out"]

SHARE = 0.2
"""Of the rows of every class, as nearly as the split allows."""

WAYS = ("capture", "time", "row")

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row indices of the two sides, ascending, and how they were parted."""

    train: Indices
    test: Indices
    """May be empty."""
    by: str
    """capture, time, row or none."""
    meaning: str
    """What that is, and why it was chosen, for people."""


def hold_out(dataset: Dataset, seed: int, *, share: float = SHARE, by: str | None = None) -> Split:
    """Parts a data set in training rows and rows to score on.

    Parameters
    ----------
    dataset
        With its captures and start times, if it has them.
    seed
        Decides which captures, or which rows, are held out.
    share
        Of each class, more than 0 and at most 0.5.
    by
        One of `WAYS`; None: as the module says.

    Raises
    ------
    DatasetError
        The way that was asked for does not part these rows.
    """
    random = np.random.default_rng(seed)
    if by == "row":
        held = _at_random(dataset, random, share)
        meaning = f"{share:.0%} of each class at random: like rows are on both sides, which flatters"
        return _split(held, "row", meaning)
    reasons = []
    if by in (None, "capture"):
        held, reason = _captures(dataset, random, share)
        if held.any():
            return _split(held, "capture", "whole captures")
        reasons.append(reason)
    if by in (None, "time"):
        held, reason = _last(dataset, share)
        if held.any():
            because = f", because {reasons[0]}" if reasons else ""
            return _split(held, "time", f"the last {share:.0%} of each class by start time{because}")
        reasons.append(reason)
    if by is not None:
        raise DatasetError(
            f"nothing can be held out by {by}: {reasons[0]}; leave out --group-by, or name another way"
        )
    return _split(held, "none", f"{' and '.join(reasons)}; --group-by row holds out rows at random")


def _split(held: npt.NDArray[np.bool_], by: str, meaning: str) -> Split:
    return Split(np.flatnonzero(~held), np.flatnonzero(held), by, meaning)


def _captures(
    dataset: Dataset, random: np.random.Generator, share: float
) -> tuple[npt.NDArray[np.bool_], str]:
    """Holds out captures, in random order, as long as a class in them still lacks rows to be scored on.

    A capture stays where it is if some class would lose more than half of its rows to the other side.
    Rows that do not name a capture count as one capture: they may all be of the same one.
    """
    held = np.zeros(len(dataset), dtype=bool)
    if len(np.unique(dataset.captures)) < 2:
        return held, "the rows do not name two captures"
    in_all = dataset.counts()
    in_test = np.zeros_like(in_all)
    by_capture = np.argsort(dataset.captures, kind="stable")
    firsts = np.flatnonzero(np.diff(dataset.captures[by_capture])) + 1
    members = np.split(by_capture, firsts)
    for i in random.permutation(len(members)):
        here = np.bincount(dataset.y[members[i]], minlength=len(in_all))
        lacking = (in_test < share * in_all) & (here > 0)
        after = in_test + here
        if lacking.any() and not ((here > 0) & (after > in_all / 2)).any():
            held[members[i]] = True
            in_test = after
    return held, "no capture can be spared without taking most of a class with it"


def _last(dataset: Dataset, share: float) -> tuple[npt.NDArray[np.bool_], str]:
    """Rows of the same instant stay together, on the later side unless that leaves nothing to train on."""
    held = np.zeros(len(dataset), dtype=bool)
    if np.isnat(dataset.start).any():
        return held, "there are rows without a start time"
    for rows in _rows_by_class(dataset):
        if (size := _test_size(len(rows), share)) > 0:
            start = dataset.start[rows]
            cut = np.sort(start)[-size]
            held[rows] = (start >= cut) & (cut > start.min())
    return held, "start times do not part them"


def _at_random(dataset: Dataset, random: np.random.Generator, share: float) -> npt.NDArray[np.bool_]:
    held = np.zeros(len(dataset), dtype=bool)
    for rows in _rows_by_class(dataset):
        held[random.permutation(rows)[: _test_size(len(rows), share)]] = True
    return held


def _rows_by_class(dataset: Dataset) -> list[Indices]:
    by_class = np.argsort(dataset.y, kind="stable")
    return np.split(by_class, np.cumsum(dataset.counts())[:-1])


def _test_size(rows: int, share: float) -> int:
    return 0 if rows < 2 else max(1, round(share * rows))
