"""Training and test data: JSON Lines to a matrix, its labels, and what a split needs to know.

One object a line. The label is `s_mac`; the features are `fts`, an array in the order of
`features.NAMES`, or else the fields of those names. `null` is an undefined feature and becomes NaN.
`capture` (which recording a row is from) and `start` (ISO 8601) are used to hold rows out, where they
are there; every other field is ignored.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from collector.errors import DatasetError, UsageError
from collector.features import NAMES

__all__ = ["NO_CAPTURE", "BadRow", "Dataset", "UnusableError", "read", "row_features", "summary"]

NO_CAPTURE = -1
"""Capture id of a row that does not say which capture it is from."""

_LABEL = "s_mac"
_LARGEST = float(np.finfo(np.float32).max)  # scikit-learn casts to float32: more would become infinity
_BAD_PER_CENT = 1
_SHOWN = 5

_KINDS = {str: "text", bool: "true or false", list: "an array", dict: "an object"}

_ISO_8601 = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NOT_A_TIME = int(np.iinfo(np.int64).min)  # what numpy takes for NaT


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that cannot be trained on."""

    path: Path
    line: int
    """From 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name} line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Rows to train on, in the order of the files.

    Attributes
    ----------
    X
        Shape (n_rows, 17), float64, columns in the order of `features.NAMES`; NaN where undefined.
    y
        Shape (n_rows,), class ids: indices into `classes`.
    classes
        The labels, sorted.
    captures
        Shape (n_rows,), capture ids; `NO_CAPTURE` where the row does not say.
    start
        Shape (n_rows,), datetime64[us], UTC; NaT where the row does not say.
    bad
        The lines that were left out.
    sha256
        Of the bytes of the files, one after the other.
    """

    X: npt.NDArray[np.float64]
    y: npt.NDArray[np.intp]
    classes: tuple[str, ...]
    captures: npt.NDArray[np.intp]
    start: npt.NDArray[np.datetime64]
    bad: tuple[BadRow, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.y)

    def counts(self) -> npt.NDArray[np.intp]:
        """Rows of each class, shape (n_classes,)."""
        return np.bincount(self.y, minlength=len(self.classes))

    def subset(self, rows: npt.NDArray[np.intp]) -> Dataset:
        """The same classes with only these rows (indices)."""
        return replace(
            self, X=self.X[rows], y=self.y[rows], captures=self.captures[rows], start=self.start[rows]
        )


class UnusableError(ValueError):
    """A line cannot be trained on; the text says why."""


class _Row(NamedTuple):
    label: str
    features: list[float]
    capture: str | None
    start: int
    """Microseconds since 1970, or `_NOT_A_TIME`."""


def read(paths: Sequence[Path], *, skip_bad: bool = False, to_train: bool = True) -> Dataset:
    """Reads training or test data from one or several files.

    Blank lines are skipped. Lines that cannot be used are left out and listed; more than 1 % of them is
    refused.

    Parameters
    ----------
    paths
        JSON Lines files.
    skip_bad
        Accept any share of lines that cannot be used.
    to_train
        Refuse what nothing can be learned from: rows of one class only.

    Raises
    ------
    UsageError
        No file, or the same file twice (its rows would be on both sides of every split).
    DatasetError
        A file cannot be read; too many lines cannot be used; no row, or none with a defined feature; to
        train, only one class.
    """
    _check_paths(paths)
    digest = hashlib.sha256()
    features, labels, captures, start = array("d"), array("q"), array("q"), array("q")
    label_ids: dict[str, int] = {}
    capture_ids: dict[str | None, int] = {None: NO_CAPTURE}
    bad: list[BadRow] = []
    for path in paths:
        for number, line in _lines(path):
            digest.update(line)
            if not line.strip():
                continue
            try:
                row = _parse(line)
            except UnusableError as error:
                bad.append(BadRow(path, number, str(error)))
                continue
            features.extend(row.features)
            labels.append(label_ids.setdefault(row.label, len(label_ids)))
            captures.append(capture_ids.setdefault(row.capture, len(capture_ids)))
            start.append(row.start)
    _check_bad(bad, len(labels) + len(bad), skip_bad)
    _check_rows(paths, features, len(labels), bad)
    if to_train:
        _check_classes(paths, label_ids, len(labels))
    classes = tuple(sorted(label_ids))
    class_of = np.empty(len(classes), dtype=np.intp)
    class_of[[label_ids[label] for label in classes]] = np.arange(len(classes))
    return Dataset(
        X=np.array(features).reshape(-1, len(NAMES)),
        y=class_of[np.array(labels)],
        classes=classes,
        captures=np.array(captures, dtype=np.intp),
        start=np.array(start).view("datetime64[us]"),
        bad=tuple(bad),
        sha256=digest.hexdigest(),
    )


def summary(bad: Sequence[BadRow]) -> str:
    """The first few bad rows with their reasons, on one line, and how many more there are."""
    shown = "; ".join(str(row) for row in bad[:_SHOWN])
    return shown if len(bad) <= _SHOWN else f"{shown}; and {len(bad) - _SHOWN} more"


def _check_paths(paths: Sequence[Path]) -> None:
    if not paths:
        raise UsageError("no data: name at least one JSON Lines file")
    seen: set[str] = set()
    for path in paths:
        if os.path.realpath(path) in seen:
            raise UsageError(f"{path} is named twice: name each file once")
        seen.add(os.path.realpath(path))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, 1)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}; name a JSON Lines file") from error


def _check_bad(bad: Sequence[BadRow], total: int, skip_bad: bool) -> None:
    if not skip_bad and len(bad) * 100 > total * _BAD_PER_CENT:
        raise DatasetError(
            f"{len(bad)} of {total} rows cannot be used, more than {_BAD_PER_CENT} %: {summary(bad)}; "
            "correct them, or leave them out with --skip-bad"
        )


def _check_rows(paths: Sequence[Path], features: array[float], rows: int, bad: Sequence[BadRow]) -> None:
    names = ", ".join(path.name for path in paths)
    if not rows and bad:
        raise DatasetError(f"not one of {len(bad)} rows can be used: {summary(bad)}; correct them")
    if not rows:
        raise DatasetError(f"{names}: no row; collect some with `flowml collect`")
    if np.isnan(features).all():
        raise DatasetError(
            f"{names}: every feature of all {rows} rows is undefined (null); collect rows that were measured"
        )


def _check_classes(paths: Sequence[Path], labels: dict[str, int], rows: int) -> None:
    if len(labels) == 1:
        raise DatasetError(
            f"{', '.join(path.name for path in paths)}: every one of the {rows} rows has the label "
            f"{next(iter(labels))!a}, and a model of one class knows nothing; add rows of a second device"
        )


def row_features(line: bytes) -> tuple[dict[str, Any], list[float]]:
    """The object on one line and its features, in the order of `features.NAMES`; it needs no label.

    Raises
    ------
    UnusableError
        Not JSON, not an object, or features that are missing, no numbers, or too large.
    """
    document = _document(line)
    return document, _features(document)


def _document(line: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UnusableError(f"not JSON ({error.msg})") from None
    if not isinstance(document, dict):
        raise UnusableError("not an object")
    return document


def _parse(line: bytes) -> _Row:
    """One line to one row.

    Raises
    ------
    UnusableError
        Not JSON, not an object, no label, or features that are missing, no numbers, or too large.
    """
    document = _document(line)
    label = document.get(_LABEL)
    if not isinstance(label, str) or not label:
        raise UnusableError(f"no label ({_LABEL})")
    return _Row(
        label, _features(document), _capture(document.get("capture")), _instant(document.get("start"))
    )


def _features(document: dict[str, Any]) -> list[float]:
    if "fts" in document:
        values = document["fts"]
        if not isinstance(values, list):
            raise UnusableError("fts is not an array")
        if len(values) != len(NAMES):
            raise UnusableError(f"fts has {len(values)} values, not {len(NAMES)}")
        return [_number(name, value) for name, value in zip(NAMES, values, strict=True)]
    for name in NAMES:
        if name not in document:
            raise UnusableError(f"neither fts nor {name}")
    return [_number(name, document[name]) for name in NAMES]


def _number(name: str, value: object) -> float:
    if value is None:
        return math.nan
    # A bool is an int to Python, so isinstance alone would take true for 1.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnusableError(f"{name} is {_KINDS[type(value)]}, not a number")
    if not -_LARGEST <= value <= _LARGEST:
        raise UnusableError(f"{name} is too large (beyond {_LARGEST:.2g}, infinity in float32)")
    return float(value)


def _capture(value: object) -> str | None:
    return str(value) if isinstance(value, (str, int)) and value != "" else None


def _instant(value: object) -> int:
    """Microseconds are enough to order rows; a time without a zone is taken as UTC."""
    match = _ISO_8601.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return _NOT_A_TIME
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z") else zone
    try:
        instant = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '').ljust(6, '0')}{zone}")
    except ValueError:  # the thirteenth month
        return _NOT_A_TIME
    return (instant - _EPOCH) // timedelta(microseconds=1)
