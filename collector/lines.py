"""Flows and what was predicted of them, to lines of JSON.

orjson writes every number and every string of the user's, a column at a time; `lines.c` lays them between
the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from collector._lines import ffi, lib
from collector.features import NAMES
from collector.records import FLOW, Reason, Rows

__all__ = ["Origin", "Predictions", "label_lines", "record_lines"]

_BLOCK_ROWS = 1 << 10
"""Rows at a time: what is written of them stays in the cache, and in memory that is there already."""
_NUMBER_ROOM = 25  # the longest float64: -2.2250738585072014e-308


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the classifier said of a batch: each of shape (n_flows,)."""

    labels: Sequence[str]
    """Label of each class."""
    classes: npt.NDArray[np.intp]
    """Index into `labels`."""
    probabilities: npt.NDArray[np.float64]

    def of(self, rows: slice) -> Predictions:
        """What was said of some of the batch."""
        return Predictions(self.labels, self.classes[rows], self.probabilities[rows])


class Origin(NamedTuple):
    """Where flows were seen: an interface, or a capture."""

    clock_offset_ns: int
    """What to add to the clock of the rows to get nanoseconds since 1970, UTC."""
    iface: str | None = None
    capture: str | None = None

    def members(self) -> bytes:
        """As members of a JSON object. A line from the wire has no member `capture`."""
        members = {"iface": self.iface}
        if self.capture is not None:
            members["capture"] = self.capture
        # A path may hold bytes that are no UTF-8: they come as surrogates, which JSON cannot hold.
        text = {name: _printable(value) for name, value in members.items()}
        return orjson.dumps(text)[1:-1]


def _printable(value: str | None) -> str | None:
    return None if value is None else value.encode(errors="surrogateescape").decode(errors="replace")


def label_lines(predictions: Predictions) -> bytes:
    """One JSON string a flow: the label."""
    encoded = [orjson.dumps(label) + b"\n" for label in predictions.labels]
    return b"".join([encoded[index] for index in predictions.classes])


class _Texts:
    """Texts for C in an array, alive as long as this is."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._each = [ffi.from_buffer("char[]", text) for text in texts]
        self.pointer = ffi.new("struct text[]", [(text, len(text)) for text in self._each])
        self.longest = max(map(len, texts), default=0)
        self.total = sum(map(len, texts))


_REASONS = _Texts([b'"none"', *(orjson.dumps(reason.name.lower()) for reason in Reason)])
_FEATURES = _Texts([b"," + orjson.dumps(name) + b":" for name in NAMES])


def record_lines(
    rows: Rows,
    origin: Origin,
    *,
    matrix: npt.NDArray[np.float64] | None = None,
    predictions: Predictions | None = None,
) -> bytes:
    """One JSON object a flow.

    Parameters
    ----------
    matrix
        The features to write, shape (n_flows, 17); none if None. NaN becomes null.
    predictions
        The labels to write; none if None.
    """
    blocks = (slice(at, at + _BLOCK_ROWS) for at in range(0, len(rows), _BLOCK_ROWS))
    return b"".join(
        _lines(
            rows[block],
            origin,
            matrix[block] if matrix is not None else None,
            predictions.of(block) if predictions is not None else None,
        )
        for block in blocks
    )


def _lines(
    rows: Rows,
    origin: Origin,
    matrix: npt.NDArray[np.float64] | None,
    predictions: Predictions | None,
) -> bytes:
    flows = np.ascontiguousarray(rows, FLOW)
    members = origin.members()
    room = lib.lines_fixed_room() + len(members)
    origin_text = _Texts([members])
    parts = ffi.new(
        "struct line_parts *",
        {
            "origin": origin_text.pointer[0],
            "clock_offset_ns": origin.clock_offset_ns,
            "reasons": _REASONS.pointer,
        },
    )
    if matrix is not None:
        values = np.ascontiguousarray(matrix, np.float64)
        wholes = _wholes(values)
        features = ffi.from_buffer("char[]", _numbers(values[wholes == 0]))
        parts.names, parts.n_names, parts.features = _FEATURES.pointer, len(NAMES), features
        parts.wholes = ffi.cast("uint32_t *", ffi.from_buffer(wholes))
        room += _FEATURES.total + len(NAMES) * _NUMBER_ROOM
    if predictions is not None:
        labels = _Texts([orjson.dumps(label) for label in predictions.labels])
        classes = np.ascontiguousarray(predictions.classes, np.int64)
        probabilities = ffi.from_buffer("char[]", _numbers(predictions.probabilities))
        parts.labels, parts.probabilities = labels.pointer, probabilities
        parts.classes = ffi.cast("int64_t *", ffi.from_buffer(classes))
        room += labels.longest + _NUMBER_ROOM
    out = np.empty(room * len(flows), np.uint8)
    written = lib.lines_write(
        ffi.cast("struct flow *", ffi.from_buffer(flows)),
        len(flows),
        parts,
        ffi.cast("char *", ffi.from_buffer(out)),
    )
    return out[:written].tobytes()


def _wholes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """The values that are whole, positive, and not too large for it; 0 for all others."""
    with np.errstate(invalid="ignore"):  # what a NaN becomes is not what it was
        wholes = values.astype(np.uint32)
    wholes[wholes != values] = 0
    return wholes


def _numbers(values: npt.NDArray[np.float64]) -> bytes:
    """A JSON array, the shortest decimals that give the same float64; NaN becomes null."""
    return orjson.dumps(np.ascontiguousarray(values, np.float64), option=orjson.OPT_SERIALIZE_NUMPY)
