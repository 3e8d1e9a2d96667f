"""What a run has done so far, in numbers: kept by the loop, read by the metrics and the live view."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collector.drain import still_held
from collector.errors import FlowmlError
from collector.lines import Origin, Predictions
from collector.observer import Observer
from collector.records import ORIGINATOR, RESPONDER, Reason, Rows

if TYPE_CHECKING:
    from collector.source import Source

__all__ = ["LATENCY_S", "TAKEN_S", "Activity", "Histogram", "LabelSeen", "Table"]

LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets for how long a line was on its way, seconds."""
TAKEN_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""The same for how long a step of the loop took."""

_BY_A_SEGMENT = (Reason.FIN, Reason.RST)


class Histogram:
    """Counts of values by upper bound, as Prometheus means it: a value at a bound is below it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = np.zeros(len(self.bounds) + 1, np.int64)
        self.sum = 0.0

    def add(self, values: npt.NDArray[np.float64] | float) -> None:
        """Takes in values, of shape (n_values,), or one."""
        places = np.searchsorted(self.bounds, np.atleast_1d(values))
        self._counts += np.bincount(places, minlength=len(self._counts))
        self.sum += float(np.sum(values))

    def cumulative(self) -> list[int]:
        """For each bound how many values are not above it; the last is how many there were."""
        return [int(count) for count in np.cumsum(self._counts)]

    def copy(self) -> Histogram:
        """One that stays as this is now."""
        other = Histogram(self.bounds)
        other._counts, other.sum = self._counts.copy(), self.sum
        return other


@dataclass(frozen=True, slots=True)
class LabelSeen:
    """How often a label was predicted, and when last (seconds since 1970)."""

    count: int
    last_s: float


@dataclass(slots=True)
class Table:
    """The numbers of one interface."""

    name: str
    ingress_mode: str
    """native or generic, of XDP; or tcx or clsact."""
    egress_mode: str
    """tcx, clsact, or empty."""
    max_connections: int
    ring_bytes: int
    is_open: bool = True
    counters: dict[str, int] = field(default_factory=dict)
    """As the kernel counts them, `records.COUNTERS`; empty if they could never be read."""
    ring_waiting: int = 0
    """Bytes in the ring that were not read yet."""
    reasons: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(Reason) + 1, np.int64))
    """Connections by `Reason`, shape (6,)."""
    sweeps: Histogram = field(default_factory=lambda: Histogram(TAKEN_S))
    drains: Histogram = field(default_factory=lambda: Histogram(TAKEN_S))
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    """From the segment that ended a connection to its line; those that timed out are not in it."""

    @property
    def held(self) -> int:
        """Connections in the table."""
        return still_held(self.counters) if self.counters else 0


class Activity(Observer):
    """Adds up what the loop tells; answers other threads, for as long as it is not closed with news."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.begin_s = time.time()
        self._lock = threading.Lock()
        self._closed = False
        self._sources = list(sources)
        self._tables = {
            source.name: Table(
                source.name,
                source.hooks.xdp_mode or source.hooks.ingress_mode,
                source.hooks.egress_mode,
                source.table.max_connections,
                source.table.ring.size,
            )
            for source in sources
        }
        self._labels: dict[str, LabelSeen] = {}
        self._predictions = Histogram(TAKEN_S)

    def predicted(self, rows: Rows, origin: Origin, predictions: Predictions, took_s: float) -> None:
        now = time.time()
        classes, counts = np.unique(predictions.classes, return_counts=True)
        with self._lock:
            self._predictions.add(took_s)
            for index, count in zip(classes.tolist(), counts.tolist(), strict=True):
                label = predictions.labels[index]
                before = self._labels.get(label)
                self._labels[label] = LabelSeen(count + (before.count if before else 0), now)

    def written(self, name: str, rows: Rows, took_s: float) -> None:
        last_ns = np.maximum(rows["side"][:, ORIGINATOR]["last_ns"], rows["side"][:, RESPONDER]["last_ns"])
        by_a_segment = np.isin(rows["reason"], _BY_A_SEGMENT)
        ago_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - last_ns[by_a_segment].astype(np.int64)
        table = self._tables[name]
        with self._lock:
            table.drains.add(took_s)
            table.reasons += np.bincount(rows["reason"].astype(np.int64), minlength=len(table.reasons))
            if len(ago_ns):
                table.latency.add(ago_ns / 1e9)

    def swept(self, name: str, took_s: float) -> None:
        with self._lock:
            self._tables[name].sweeps.add(took_s)

    def tables(self) -> list[Table]:
        """Each interface's numbers as they are now, read from the kernel unless it is closed."""
        with self._lock:
            if not self._closed:
                self._read()
            return [
                replace(
                    table,
                    reasons=table.reasons.copy(),
                    sweeps=table.sweeps.copy(),
                    drains=table.drains.copy(),
                    latency=table.latency.copy(),
                )
                for table in self._tables.values()
            ]

    def labels(self) -> dict[str, LabelSeen]:
        """By label, in the order in which they were first predicted."""
        with self._lock:
            return dict(self._labels)

    def predictions(self) -> Histogram:
        """How long the classifier took for a batch, seconds."""
        with self._lock:
            return self._predictions.copy()

    def connections(self) -> int:
        """How many went to the sink."""
        with self._lock:
            return int(sum(table.reasons.sum() for table in self._tables.values()))

    def close(self, *_: Any) -> None:
        """Reads the counters once more; from now on nothing of the tables is touched, which may go away."""
        with self._lock:
            if not self._closed:
                self._read()
            self._closed = True

    def _read(self) -> None:
        for source in self._sources:
            table = self._tables[source.name]
            table.is_open = source.open
            try:
                table.counters = source.table.counters()
                table.ring_waiting = source.table.ring.waiting
            except (OSError, FlowmlError):  # the summary says it; what was read before stays
                continue
