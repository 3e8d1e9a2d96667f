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
from pathlib import Path

from collector import privileges
from collector.aside import Aside
from collector.errors import OutputError
from collector.keptfolder import KeptFolder

__all__ = ["Sink", "open_sink"]

STANDARD_OUTPUT = "-"

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
_PIPE_BUF = 4096  # what poll(2) promises room for


class Sink:
    """A file, or a pipe, that lines are appended to."""

    def __init__(
        self, fd: int, name: str, *, created: bool = False, folder: KeptFolder | None = None
    ) -> None:
        self._fd = fd
        self._created = created
        self._folder = folder
        self.name = name
        about = os.fstat(fd)
        self._regular = stat.S_ISREG(about.st_mode)
        self._takes_all = self._regular or _is_null_device(about)
        self._waiting = bytearray()
        self._waiting_lines = 0
        self._begun = 0  # bytes of the first line that waits which a pipe has already taken
        self._failed = False
        self._aside: Aside | None = None
        self.written = 0
        """Lines that are in the file, whole."""

    @property
    def pipe_fd(self) -> int | None:
        """The descriptor, where there can be room later without anybody's doing; None for a file."""
        return None if self._regular else self._fd

    @property
    def is_deleted(self) -> bool:
        """Whether the file has no name any more: nobody will ever read what is written to it."""
        return self._regular and os.fstat(self._fd).st_nlink == 0

    @property
    def waiting(self) -> int:
        """Bytes of lines that are kept and not yet written."""
        return len(self._waiting)

    @property
    def lines_aside(self) -> int:
        """Lines that are in a temporary file by now."""
        return self._aside.lines if self._aside is not None else 0

    def write(self, lines: bytes, count: int | None = None) -> None:
        """Appends lines, each whole or not at all, however long a pipe's reader takes.

        Parameters
        ----------
        count
            How many lines they are; None: they are counted.

        Raises
        ------
        OutputError
            No room, or no reader: once. From then on lines are only kept, so that what is still to come
            can be taken to its end; `rescue` puts them where there is room.
        """
        self.keep(lines, count)
        if self._failed:
            return
        try:
            while not self.flush(patience_s=None):
                pass
        except OSError as error:
            self._failed = True
            raise OutputError(f"{self.name}: {error.strerror} after {self.written} lines") from error

    def keep(self, lines: bytes, count: int | None = None) -> None:
        """Lines for the next `flush`; `count` as for `write`."""
        self._waiting += lines
        self._waiting_lines += lines.count(b"\n") if count is None else count

    def flush(self, *, patience_s: float | None) -> bool:
        """Writes what waits as far as there is room; whether that was all.

        Parameters
        ----------
        patience_s
            How long a pipe may have no room at all; None: for ever.

        Raises
        ------
        OSError
            It is refused; what was not taken is kept.
        """
        sent = self._begun
        try:
            with memoryview(self._waiting) as data:
                while sent < len(data) and self._has_room(patience_s):
                    with data[sent : self._next_end(sent)] as part:
                        sent += os.write(self._fd, part)
        except BlockingIOError:  # somebody else's lines took the room
            pass
        finally:
            self._settle(sent)
        return not self._waiting

    def _next_end(self, sent: int) -> int:
        """A pipe takes so much at once, and is given whole lines, for others may write to it too."""
        if self._takes_all:
            return len(self._waiting)
        return self._waiting.rfind(b"\n", sent, sent + _PIPE_BUF) + 1 or sent + _PIPE_BUF

    def _has_room(self, patience_s: float | None) -> bool:
        if self._takes_all:
            return True
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        return bool(room.poll(None if patience_s is None else 1000 * patience_s))

    def _settle(self, sent: int) -> None:
        """After `sent` bytes: what was written whole is done with, half a line is taken back."""
        whole = self._waiting.rfind(b"\n", 0, sent) + 1
        all_of_them = whole == len(self._waiting)
        lines = self._waiting_lines if all_of_them else self._waiting.count(b"\n", 0, whole)
        self.written += lines
        self._waiting_lines -= lines
        del self._waiting[:whole]
        sent -= whole
        if not self._regular:  # nothing can be taken back: the rest has to follow
            self._begun = sent
        elif sent:
            with contextlib.suppress(OSError):
                at = os.lseek(self._fd, 0, os.SEEK_CUR)
                if at == os.fstat(self._fd).st_size:  # or somebody else has written behind it
                    os.ftruncate(self._fd, at - sent)
                    os.lseek(self._fd, at - sent, os.SEEK_SET)

    def reopen(self) -> bool:
        """Goes on with the file that has the name by now, made if there is none; for a rotated log.

        With the rights that the process has by now. What waits goes to the new file. False where there is
        nothing to open anew: a pipe, or standard output.

        Raises
        ------
        OSError
            It cannot be opened; the old one is still in use.
        """
        if self._folder is None or not self._regular:
            return False
        fd = self._folder.open(Path(self.name).name, _APPEND | os.O_CREAT)
        os.close(self._fd)
        self._fd = fd
        return True

    def put_aside(self) -> None:
        """Puts what waits into a temporary file, where there may be room.

        Raises
        ------
        OSError
            There is none either; what waits is kept.
        """
        if self._aside is None:
            self._aside = Aside()
        self._aside.put(self._waiting)
        self._waiting.clear()
        self._waiting_lines = 0
        self._begun = 0

    def rescue(self) -> str:
        """After a failure: puts what is still to be written where there is room, and says where.

        First the file itself once more, for there may be room again; then a file of its own. Says nothing
        where nothing was left.
        """
        if not self._waiting and self._aside is None:
            return ""
        with contextlib.suppress(OSError):
            if not self.lines_aside:
                self.flush(patience_s=0)
        said = []
        if self._waiting:
            try:
                self.put_aside()
            except OSError as error:
                count = self._waiting_lines
                said.append(
                    f"{count} more lines are lost: no temporary file can be written either ({error.strerror})"
                )
        if self._aside is not None:
            if lines := self._aside.lines:
                said.append(f"{lines} more lines are in {self._aside.path}: make room and append them")
            self._aside.close()
        return "; ".join(said) or "all lines are in it by now"

    def discard(self) -> None:
        """Takes the file away again if it was made for this sink and nothing is in it."""
        if self._created and not os.fstat(self._fd).st_size:
            with privileges.as_caller(), contextlib.suppress(OSError):
                Path(self.name).unlink()

    def close(self) -> None:
        if self._folder is not None:
            self._folder.close()
        if self._fd > 2:
            os.close(self._fd)


def _is_null_device(about: os.stat_result) -> bool:
    """Whether it takes any number of bytes at once, like a file."""
    return stat.S_ISCHR(about.st_mode) and about.st_rdev == Path(os.devnull).stat().st_rdev


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
    flags = _APPEND | os.O_CREAT | (0 if append else os.O_TRUNC)
    created = True
    try:
        with privileges.as_caller():
            folder = KeptFolder(Path(path).parent)
            try:
                fd = folder.open(Path(path).name, flags | os.O_EXCL)
            except FileExistsError:
                fd, created = folder.open(Path(path).name, flags), False
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OutputError(f"{path} is a pipe that nobody reads: start its reader first") from error
        who = privileges.caller().name
        raise OutputError(
            f"{path} cannot be written by {who} ({error.strerror}): name another --outfile"
        ) from error
    return Sink(fd, path, created=created, folder=folder)
