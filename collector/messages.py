"""What is said to the user: on standard error, for standard output is for JSON."""

from __future__ import annotations

import contextlib
import sys

from collector.printable import printable

__all__ = ["log"]


def log(line: str) -> None:
    """One line on standard error; none where it is closed, or its reader has gone: the run goes on."""
    if sys.stderr is None:  # print would write it to standard output, among the JSON
        return
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)
