"""The kernel's clock and the time of day: a clock that is set, a machine that sleeps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np

from collector.records import ORIGINATOR, Rows

__all__ = ["WallClock"]

_SLEEP_LEAST_NS = 100_000_000
"""The clocks are read one after the other: less than this may be the time between."""
_SLEEPS = 64


class WallClock:
    """What to add to the times of rows to get nanoseconds since 1970, UTC.

    The time of day is asked for anew for each batch, so a clock that was set shows in the lines that are
    written from then on, in the start of connections that began before, too: it is right now, and was wrong
    then. The rows' clock stands still while the machine sleeps. How long it has slept is noted, so that a
    connection that began before a sleep has not moved by it.

    Parameters
    ----------
    read
        Answers a clock of `time.clock_gettime`, nanoseconds.
    """

    def __init__(self, read: Callable[[int], int] = time.clock_gettime_ns) -> None:
        self._read = read
        self._looked_ns = 0
        self._since_ns = [0]
        self._slept_ns = [self._slept()]
        self.look()

    def _slept(self) -> int:
        """Since the machine was started, nanoseconds."""
        boottime = self._read(time.CLOCK_BOOTTIME)
        return boottime - self._read(time.CLOCK_MONOTONIC)

    def look(self) -> None:
        """Notes whether the machine has slept: to be called often, or it is not known when that was."""
        slept = self._slept()
        if slept - self._slept_ns[-1] > _SLEEP_LEAST_NS:
            self._since_ns.append(self._looked_ns)
            self._slept_ns.append(slept)
            del self._since_ns[1:-_SLEEPS], self._slept_ns[1:-_SLEEPS]
        self._looked_ns = self._read(time.CLOCK_MONOTONIC)

    def parts(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """The rows in their order, in pieces that have one offset each: nearly always a single piece."""
        self.look()
        woken = self._read(time.CLOCK_REALTIME) - self._read(time.CLOCK_BOOTTIME)
        if len(self._since_ns) == 1:  # it has not slept: no need to ask each row when it began
            yield woken + self._slept_ns[0], rows
            return
        start = rows["side"][:, ORIGINATOR]["first_ns"]
        which = np.searchsorted(np.array(self._since_ns, np.uint64), start, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(which)) + 1), len(rows)]
        for begin, end in itertools.pairwise(cuts):
            yield woken + self._slept_ns[max(int(which[begin]), 0)], rows[begin:end]
