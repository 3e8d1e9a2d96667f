"""A run at a glance, on a terminal: refreshed in place on standard error, gone when the run ends.

A thread draws it, so that a terminal that is stopped (Ctrl+S) stops the picture and not the loop. Where a
terminal is made narrower than the picture, the lines that it wraps stay above the next one.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from collector.activity import Activity, LabelSeen, Table
from collector.printable import printable
from collector.status import packets, refused

__all__ = ["View", "is_possible", "live_view", "warm_up"]

_PER_SECOND = 2
_RATE_OVER_S = 1.0
"""Rates are over this long at the least, or they would be all noise."""
_ROWS_AROUND = 9
"""Lines that are no label: titles, heads, gaps, and room for what is logged."""


def is_possible(output: str) -> bool:
    """Whether there is a terminal to draw on which the lines of the output do not go to too."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    return not (output == "-" and os.isatty(1))


def warm_up() -> None:
    """Has rich import what it only does when it draws: later its files may not be readable any more."""
    grid = Grid("a", box=None)
    grid.add_row(Text("é漢", style="bold red"))
    console = Console(file=io.StringIO(), force_terminal=True)
    with Live(Group(Text("a"), grid), console=console, auto_refresh=False, redirect_stdout=False):
        pass


class View:
    """Draws the activity.

    Parameters
    ----------
    title
        What runs.
    clock
        Seconds, never going back.
    """

    def __init__(
        self, activity: Activity, title: str, height: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self._activity = activity
        self._title = printable(title)
        self._height = height
        self._clock = clock
        self._begin_s = self._rated_s = clock()
        self._before: dict[str, tuple[int, int]] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def picture(self) -> Group:
        """What there is to see now."""
        now = self._clock()
        tables = self._activity.tables()
        if now - self._rated_s >= _RATE_OVER_S or not self._before:
            self._rate(tables, now)
        labels = self._activity.labels()
        days, seconds = divmod(int(now - self._begin_s), 86400)
        passed = (f"{days} d " if days else "") + time.strftime("%H:%M:%S", time.gmtime(seconds))
        head = Text(f"{self._title}  {passed}  Ctrl+C ends it", no_wrap=True, overflow="ellipsis")
        parts: list[Grid | Text] = [head, self._interfaces(tables)]
        if labels:
            room = max(3, self._height() - len(tables) - _ROWS_AROUND)
            parts.append(_of_labels(labels, room))
        return Group(*parts)

    def _rate(self, tables: list[Table], now: float) -> None:
        passed = now - self._rated_s
        for table in tables:
            seen = packets(table), int(table.reasons.sum())
            before = self._before.get(table.name, seen)
            if passed > 0:
                self._rates[table.name] = (
                    (seen[0] - before[0]) / passed,
                    (seen[1] - before[1]) / passed,
                )
            self._before[table.name] = seen
        self._rated_s = now

    def _interfaces(self, tables: list[Table]) -> Grid:
        grid = Grid(box=None, pad_edge=False)
        grid.add_column("interface")
        for name in ("packets/s", "ended/s", "ended", "open", "table", "ring", "refused", "late"):
            grid.add_column(name, justify="right")
        for table in tables:
            rate, ended_rate = self._rates.get(table.name, (0.0, 0.0))
            share = table.held / table.max_connections
            lost = refused(table)
            grid.add_row(
                Text(printable(table.name) + ("" if table.is_open else " (gone)")),
                f"{rate:,.0f}",
                f"{ended_rate:,.1f}",
                f"{int(table.reasons.sum()):,}",
                f"{table.held:,}",
                Text(f"{share:.1%}", style="bold red" if share > 0.9 else ""),
                f"{table.ring_waiting / table.ring_bytes:.1%}",
                Text(f"{lost:,}", style="bold red" if lost else ""),
                f"{table.counters.get('parked', 0):,}",
            )
        return grid


def _of_labels(labels: dict[str, LabelSeen], room: int) -> Grid:
    """The commonest labels, and one line for the others."""
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("label")
    for name in ("connections", "share", "last seen"):
        grid.add_column(name, justify="right")
    total = sum(seen.count for seen in labels.values())
    ranked = sorted(labels.items(), key=lambda entry: -entry[1].count)
    if len(ranked) > room:
        rest = [seen for _, seen in ranked[room - 1 :]]
        others = LabelSeen(sum(seen.count for seen in rest), max(seen.last_s for seen in rest))
        ranked = [*ranked[: room - 1], (f"{len(rest)} others", others)]
    now = time.time()
    for label, seen in ranked:
        grid.add_row(
            Text(printable(label)), f"{seen.count:,}", f"{seen.count / total:.1%}", _ago(now - seen.last_s)
        )
    return grid


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


@contextlib.contextmanager
def live_view(activity: Activity, title: str) -> Iterator[None]:
    """Shows the run in its body; what is logged meanwhile stands above the picture."""
    console = Console(stderr=True)
    view = View(activity, title, lambda: console.height, time.monotonic)
    with Live(
        console=console,
        get_renderable=view.picture,
        refresh_per_second=_PER_SECOND,
        transient=True,
        redirect_stdout=False,  # which is for JSON
        vertical_overflow="crop",
    ):
        yield
