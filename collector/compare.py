"""Two lists of connections that should be the same: raw counters bit for bit, features by difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from collector import records
from collector.features import NAMES, matrix
from collector.lines import Origin, record_lines
from collector.order import by_start
from collector.records import FLOW, ORIGINATOR, RESPONDER, SEGMENTS, Rows, joined
from collector.replay import CLOCK_OFFSET_NS

__all__ = ["Tally", "bare", "compare_rows"]


@dataclass(slots=True)
class Tally:
    """What was compared, and what differed."""

    connections: int = 0
    counters: int = 0
    """Raw counters compared, all connections together."""
    differ: int = 0
    """Connections of which anything differs, or that only one side has."""
    largest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))
    """Largest difference of each feature, in its unit."""
    compared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    """Connections in which each feature is defined on both sides."""
    first: str = ""
    """The first that differs, both sides."""

    def add(self, other: Tally) -> None:
        """Takes over what another one found."""
        self.connections += other.connections
        self.counters += other.counters
        self.differ += other.differ
        self.first = self.first or other.first
        for name in NAMES:
            self.compared[name] += other.compared[name]
            self.largest[name] = max(self.largest[name], other.largest[name])

    def add_features(self, ours: Any, theirs: Any, scale: Sequence[float] | None = None) -> None:
        """Differences of two matrices of shape (n_connections, 17), column by column times `scale`."""
        difference = np.abs(ours - theirs)
        for column, name in enumerate(NAMES):
            defined = difference[:, column][np.isfinite(difference[:, column])]
            self.compared[name] += len(defined)
            if len(defined):
                worst = float(defined.max()) * (scale[column] if scale else 1.0)
                self.largest[name] = max(self.largest[name], worst)


_PLACES = ("slot", "parked", "no_mac", "reserved")
"""Of a flow, what says where it lay and not what it is."""


def bare(rows: Rows) -> Rows:
    """The flows in order, without what depends on where they lay: shape (n_flows,), bytes comparable."""
    flows = joined(by_start([rows], run_rows=max(1, len(rows))))
    for side in (ORIGINATOR, RESPONDER):
        flows["side"][:, side]["gate"] &= SEGMENTS
    for name in _PLACES:
        flows[name] = 0
    return flows


def compare_rows(ours: Rows, theirs: Rows, names: tuple[str, str], tally: Tally) -> None:
    """Compares two hosts of the core on the same packets: every counter of every connection.

    Parameters
    ----------
    names
        What the two sides are called.
    """
    ours, theirs = bare(ours), bare(theirs)
    common = min(len(ours), len(theirs))
    fields = len(records.layout(FLOW)) - len(_PLACES)
    tally.connections += common
    tally.counters += common * fields
    same = _bits(ours[:common]) == _bits(theirs[:common])
    wrong = np.flatnonzero(~same.all(axis=1))
    tally.differ += len(wrong) + abs(len(ours) - len(theirs))
    tally.add_features(matrix(ours[:common]), matrix(theirs[:common]))
    if tally.first or (not len(wrong) and len(ours) == len(theirs)):
        return
    if len(wrong):
        at = int(wrong[0])
        tally.first = _both(ours[at : at + 1], theirs[at : at + 1], names)
        return
    longer, name = (ours, names[0]) if len(ours) > len(theirs) else (theirs, names[1])
    tally.first = f"only by {name}: {_line(longer[common : common + 1])}"


def _bits(flows: Rows) -> Any:
    return flows.view(np.uint8).reshape(len(flows), FLOW.itemsize)


def _line(flow: Rows) -> str:
    return record_lines(flow, Origin(CLOCK_OFFSET_NS), matrix=matrix(flow)).decode().strip()


def _both(ours: Rows, theirs: Rows, names: tuple[str, str]) -> str:
    """Both lines, then each raw field that differs."""
    parts = [f"{name + ':':<7} {_line(flow)}" for name, flow in zip(names, (ours, theirs), strict=True)]
    one, other = ours.tobytes(), theirs.tobytes()
    for name, (offset, size) in records.layout(FLOW).items():
        values = [int.from_bytes(raw[offset : offset + size], "little") for raw in (one, other)]
        if values[0] != values[1]:
            parts.append(f"  {name}: {names[0]} {values[0]}, {names[1]} {values[1]}")
    return "\n".join(parts)
