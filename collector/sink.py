"""Lines to a file that may fill up.

A line is complete in the file or not there at all, and a line that cannot be written is kept: the sink
tells how many there are, and puts them aside where there is room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
import tempfile
from pathlib import Path
from socket import socket

from collector import privileges
from collector.errors import OutputError

__all__ = ["Sink", "open_sink"]

STANDARD_OUTPUT = "-"
STOPPED_PATIENCE_S = 2

_LOOK_AROUND_MS = 100
_PIPE_BUF = 4096  # what poll(2) promises room for


class Sink:
    """A file, or a pipe, that lines are appended to."""

    def __init__(self, fd: int, name: str, *, created: bool = False) -> None:
        self._fd = fd
        self._created = created
        self.stop: socket | None = None
        """Readable once the run is to end."""
        self.name = name
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._waiting = bytearray()
        self._failed = False
        self.written = 0
        """Lines that are in the file, whole."""

    def write(self, lines: bytes) -> None:
        """Appends lines, each whole or not at all.

        Raises
        ------
        OutputError
            No room, or no reader: once. From then on lines are only kept, so that what is still to come
            can be taken to its end; `rescue` puts them where there is room.
        """
        self._waiting += lines
        if self._failed or not self._waiting:
            return
        try:
            self._append()
        except OSError as error:
            self._failed = True
            raise OutputError(f"{self.name}: {error.strerror} after {self.written} lines") from error

    def _append(self) -> None:
        sent = 0
        try:
            with memoryview(self._waiting) as data:
                while sent < len(data):
                    self._wait_for_room()
                    end = len(data) if self._regular else sent + _PIPE_BUF
                    with data[sent:end] as part:
                        sent += os.write(self._fd, part)
        finally:
            self._settle(sent)

    def _wait_for_room(self) -> None:
        """A pipe whose reader is slow is waited for; once stopped, for `STOPPED_PATIENCE_S` at most."""
        if self._regular or self.stop is None:
            return
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        while not room.poll(_LOOK_AROUND_MS):
            if select.select([self.stop], [], [], 0)[0]:
                if not room.poll(1000 * STOPPED_PATIENCE_S):
                    raise OSError(errno.EAGAIN, "nobody reads it")
                return

    def _settle(self, sent: int) -> None:
        """After `sent` bytes: what was written whole is done with, half a line is taken back."""
        whole = self._waiting.rfind(b"\n", 0, sent) + 1
        self.written += self._waiting.count(b"\n", 0, whole)
        del self._waiting[:whole]
        sent -= whole
        if sent and self._regular:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - sent)

    def rescue(self) -> str:
        """After a failure: puts what is still to be written where there is room, and says where.

        First the file itself once more, for there may be room again; then a file of its own.
        """
        with contextlib.suppress(OSError):
            self._append()
        if not self._waiting:
            return "there is room again, and all lines are in it"
        count = self._waiting.count(b"\n")
        try:
            fd, name = tempfile.mkstemp(prefix="flowml-rescued-", suffix=".jsonl")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(self._waiting)
            except OSError:
                Path(name).unlink()
                raise
        except OSError as error:
            return f"{count} more lines are lost: no temporary file can be written either ({error.strerror})"
        self._waiting.clear()
        return f"{count} more lines are in {name}: make room and append them"

    def discard(self) -> None:
        """Takes the file away again if it was made for this sink and nothing is in it."""
        if self._created and not os.fstat(self._fd).st_size:
            with privileges.as_caller(), contextlib.suppress(OSError):
                Path(self.name).unlink()

    def close(self) -> None:
        if self._fd > 2:
            os.close(self._fd)


def open_sink(path: str, *, append: bool = True) -> Sink:
    """Opens a path to append to, with the caller's rights and in the caller's name; `-` is standard output.

    What the file held before is gone unless `append`.

    Raises
    ------
    OutputError
        It cannot be opened for writing.
    """
    if path == STANDARD_OUTPUT:
        if sys.stdout is None:  # and descriptor 1 is by now another file, or will be
            raise OutputError("standard output is closed: name a file with --outfile")
        return Sink(1, "standard output")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if append else os.O_TRUNC)
    created = True
    try:
        with privileges.as_caller():
            try:
                fd = os.open(path, flags | os.O_EXCL, 0o644)
            except FileExistsError:
                fd, created = os.open(path, flags, 0o644), False
    except OSError as error:
        who = privileges.caller().name
        raise OutputError(
            f"{path} cannot be written by {who} ({error.strerror}): name another --outfile"
        ) from error
    return Sink(fd, path, created=created)
