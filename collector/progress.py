"""How far long work has come: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["Advance", "progress"]

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
    """Gives a function to be told how much of the total is done since it was last told.

    Parameters
    ----------
    total
        None: nobody knows, and no bar is full before the end.
    unit
        bytes, or what is counted.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = ("{task.description}", BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
