"""How a run goes, as a plain line every now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from collector.activity import Activity, Table
from collector.observer import Observer
from collector.records import FATES

__all__ = ["StatusLines", "packets", "refused"]


def packets(table: Table) -> int:
    """Packets that the hooks of an interface saw."""
    return sum(table.counters.get(fate, 0) for fate in FATES)


def refused(table: Table) -> int:
    """Segments that should have opened a connection, and for which there was no room."""
    return table.counters.get("table_full", 0) + table.counters.get("contended", 0)


class StatusLines(Observer):
    """One line for all interfaces, every `interval_s` seconds, with what came since the line before."""

    def __init__(
        self,
        activity: Activity,
        interval_s: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._activity = activity
        self._interval_s = interval_s
        self._say = say
        self._clock = clock
        self._said_s = clock()
        self._packets = self._connections = self._refused = 0

    def turned(self) -> None:
        now = self._clock()
        if (passed_s := now - self._said_s) < self._interval_s:
            return
        tables = self._activity.tables()
        seen, lost = sum(map(packets, tables)), sum(map(refused, tables))
        connections = self._activity.connections()
        held, room = sum(table.held for table in tables), sum(table.max_connections for table in tables)
        self._say(
            f"status: {connections - self._connections} connections and {seen - self._packets} packets "
            f"in {passed_s:.0f} s; {held} of {room} open; {lost - self._refused} refused"
        )
        self._said_s, self._packets, self._connections, self._refused = now, seen, connections, lost
