"""Which rows a model is scored on: rows that were held out of training.

Connections of one recording resemble each other more than they resemble those of another day, so a split
by row flatters. The first of these that the data allows is used:

1. by capture: whole captures on one side;
2. by time: the last fifth of every class. Not the last fifth of all rows: where devices were recorded one
   after another, that would hold out whole classes, which no model can then know;
3. by row: a fifth of every class, at random.

Every class keeps rows in training, whatever the split; a class of a single row is only there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.dataset import Dataset

__all__ = ["Split", "hold_out"]

SHARE = 0.2
"""Of the rows of every class, as nearly as the split allows."""

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row indices of the two sides, ascending, and how they were parted."""

    train: Indices
    test: Indices
    """May be empty: where every class has a single row."""
    by: str
    """capture, time or row."""
    meaning: str
    """What that is, and why it was chosen, for people."""


def hold_out(dataset: Dataset, seed: int) -> Split:
    """Parts a data set in training rows and rows to score on.

    Parameters
    ----------
    dataset
        With its captures and start times, if it has them.
    seed
        Decides which captures, or which rows, are held out.
    """
    random = np.random.default_rng(seed)
    why = "the rows do not name two captures"
    if len(np.unique(dataset.captures)) > 1:
        held = _captures(dataset, random)
        if held.any():
            return _split(held, "capture", "whole captures")
        why = "no capture can be spared without taking most of a class with it"
    if not np.isnat(dataset.start).any():
        held = _last(dataset)
        if held.any():
            return _split(held, "time", f"the last fifth of each class by start time, because {why}")
    return _split(
        _at_random(dataset, random),
        "row",
        f"a fifth of each class at random, because {why} and start times do not part them; "
        "like rows may be on both sides, which flatters",
    )


def _split(held: npt.NDArray[np.bool_], by: str, meaning: str) -> Split:
    return Split(np.flatnonzero(~held), np.flatnonzero(held), by, meaning)


def _captures(dataset: Dataset, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Holds out captures, in random order, as long as a class in them still lacks rows to be scored on.

    A capture stays where it is if some class would lose more than half of its rows to the other side.
    Rows that do not name a capture count as one capture: they may all be of the same one.
    """
    held = np.zeros(len(dataset), dtype=bool)
    in_all = dataset.counts()
    in_test = np.zeros_like(in_all)
    by_capture = np.argsort(dataset.captures, kind="stable")
    firsts = np.flatnonzero(np.diff(dataset.captures[by_capture])) + 1
    members = np.split(by_capture, firsts)
    for i in random.permutation(len(members)):
        here = np.bincount(dataset.y[members[i]], minlength=len(in_all))
        lacking = (in_test < SHARE * in_all) & (here > 0)
        after = in_test + here
        if lacking.any() and not ((here > 0) & (after > in_all / 2)).any():
            held[members[i]] = True
            in_test = after
    return held


def _last(dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Rows of the same instant stay together, on the later side unless that leaves nothing to train on."""
    held = np.zeros(len(dataset), dtype=bool)
    for rows in _rows_by_class(dataset):
        if _test_size(len(rows)) > 0:
            start = dataset.start[rows]
            cut = np.sort(start)[-_test_size(len(rows))]
            held[rows] = (start >= cut) & (cut > start.min())
    return held


def _at_random(dataset: Dataset, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    held = np.zeros(len(dataset), dtype=bool)
    for rows in _rows_by_class(dataset):
        held[random.permutation(rows)[: _test_size(len(rows))]] = True
    return held


def _rows_by_class(dataset: Dataset) -> list[Indices]:
    by_class = np.argsort(dataset.y, kind="stable")
    return np.split(by_class, np.cumsum(dataset.counts())[:-1])


def _test_size(rows: int) -> int:
    return 0 if rows < 2 else max(1, round(SHARE * rows))
