"""How far long work is: a line that is written over on a terminal, and nothing anywhere else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress", "Terminal", "silent"]

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""

_EVERY_S = 0.1


def silent(what: str, done: int, total: int) -> None:
    """For whoever is not watching."""


class Terminal:
    """Lines for people on a stream; below them, if it is a terminal, how far the work is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._watched = stream.isatty()
        self._shown = False
        self._next = 0.0

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=self._stream, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """See `Progress`. The line goes away when the work is done."""
        now = time.monotonic()
        if not self._watched or (now < self._next and done < total):
            return
        self._next = now + _EVERY_S
        self._clear()
        if done < total:
            text = f"{what}: {done} of {total}, {done / total:.0%}"
            print(text[: shutil.get_terminal_size().columns - 1], end="", file=self._stream, flush=True)
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
            self._shown = False
