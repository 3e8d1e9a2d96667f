"""Lines on their way into a file or pipe that may take nothing for a while, and is never waited for."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable

from collector.errors import OutputError
from collector.sink import Sink

__all__ = ["Backlog"]

_RETRY_S = 1.0
_LAST_PATIENCE_S = 2.0
_NEVER = float("inf")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Backlog:
    """What a run has to say, between its loop and its sink.

    A file that refuses is tried again every second. A pipe is written to when it has room. What is not taken
    is kept, up to `limit_bytes`: `has_room` is false from then on until half of it has gone, and whoever asks
    leaves finished connections where they are, in the kernel. Both are said when they begin and end.
    """

    def __init__(self, sink: Sink, *, limit_bytes: int, log: Callable[[str], None]) -> None:
        self._sink = sink
        self._limit = limit_bytes
        self._log = log
        self._refusal = ""
        self._given_up = False
        self._ending = False
        self._is_full = False
        self._cannot_be_made = False
        self.retry_at = _NEVER
        """When to call `flush` again, on the clock of `time.monotonic`."""

    @property
    def has_room(self) -> bool:
        """Whether more lines should be made just now; always so once the run is ending."""
        return self._ending or not self._is_full

    @property
    def pipe_fd(self) -> int | None:
        """A descriptor that can be polled for room, and for the loss of its reader; None for a file."""
        return self._sink.pipe_fd

    @property
    def wants_room(self) -> bool:
        """Whether there are lines for a pipe that had no room for them."""
        return bool(self._sink.waiting) and not self._refusal

    def look_after(self) -> None:
        """To be called often: a file that was deleted is made anew."""
        if not self._sink.is_deleted:
            self._cannot_be_made = False
            return
        if self._cannot_be_made:
            return
        why = "it is standard output"
        try:
            made = self._sink.reopen()
        except OSError as error:
            made, why = False, error.strerror or ""
        self._cannot_be_made = not made
        self._log(
            f"{self._sink.name} was deleted: it is made anew"
            if made
            else f"{self._sink.name} was deleted, and is not made anew ({why}): what is written is lost"
        )

    def put(self, lines: bytes, count: int | None = None) -> None:
        """Takes lines, and writes as much as goes out at once. `count` as for `Sink.write`.

        Raises
        ------
        OutputError
            The reader of the pipe has gone: once, and not while the run is ending.
        """
        self._sink.keep(lines, count)
        if self._ending:
            if self._sink.waiting >= self._limit:
                self._make_room()
        elif not self._refusal:
            self.flush()

    def flush(self) -> None:
        """Writes what goes out at once. Raises as `put`."""
        if self._given_up:
            return
        try:
            self._sink.flush(patience_s=0)
        except OSError as error:
            if not self._may_be_mended(error):
                raise self._gone(error.strerror) from error
            self._refused(error.strerror)
        else:
            if self._refusal:
                self._log(f"{self._sink.name}: it takes lines again, and has all that were kept")
            self._refusal, self.retry_at = "", _NEVER
        self._look_at_room()

    def reader_has_gone(self) -> None:
        """To be called when polling said so: raises as `put`."""
        raise self._gone("its reader has gone")

    def end(self) -> None:
        """From now on lines are taken whatever becomes of them; `close` tells."""
        self._ending = True

    def close(self) -> None:
        """Writes the rest; a slow reader is waited for as long as it reads something every two seconds.

        Raises
        ------
        OutputError
            Lines are left that the sink still has: `Sink.rescue` is next. Not raised if `put` did already.
        """
        if self._given_up:
            return
        why = self._push()
        if self._sink.waiting or self._sink.lines_aside:
            raise self._gone(why)

    def _may_be_mended(self, error: OSError) -> bool:
        """A file can be given room, or another in its place; a pipe whose reader has gone is lost."""
        return self._sink.pipe_fd is None or error.errno in _NO_ROOM

    def _gone(self, why: str | None) -> OutputError:
        self._given_up = True
        return OutputError(f"{self._sink.name}: {why} after {self._sink.written} lines")

    def _refused(self, why: str | None) -> None:
        self.retry_at = time.monotonic() + _RETRY_S
        if not self._refusal:
            self._log(f"{self._sink.name}: {why}: lines are kept, and it is tried again every second")
        self._refusal = why or "refused"

    def _look_at_room(self) -> None:
        waiting = self._sink.waiting
        if not self._is_full and waiting >= self._limit:
            self._is_full = True
            self._log(
                f"{self._sink.name}: {waiting} bytes of lines wait for it: "
                "finished connections stay in the kernel until it takes some"
            )
        elif self._is_full and waiting <= self._limit // 2:
            self._is_full = False
            self._log(f"{self._sink.name}: connections come out of the kernel again")

    def _push(self) -> str | None:
        """Writes with patience; says why what is left was not taken."""
        try:
            self._sink.flush(patience_s=_LAST_PATIENCE_S)
        except OSError as error:
            return error.strerror
        return "nobody reads it"

    def _make_room(self) -> None:
        """At the end there is nothing to wait for: what the sink does not take goes into another file."""
        if not self._given_up and not self._sink.lines_aside:
            self._push()
        if self._sink.waiting >= self._limit:
            with contextlib.suppress(OSError):  # `Sink.rescue` tries again, and tells
                self._sink.put_aside()
