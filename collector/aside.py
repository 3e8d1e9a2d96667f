"""A temporary file for lines that found no room where they belong."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Aside"]


class Aside:
    """Made with the first lines, and gone again if none were taken.

    Raises
    ------
    OSError
        No temporary file can be made.
    """

    def __init__(self) -> None:
        import tempfile

        self._fd, name = tempfile.mkstemp(prefix="flowml-rescued-", suffix=".jsonl")
        self.path = Path(name)
        self.lines = 0
        """Lines in it."""

    def put(self, data: bytearray) -> None:
        """Appends whole lines, all of them or none. Raises OSError."""
        before = os.fstat(self._fd).st_size
        sent = 0
        try:
            with memoryview(data) as view:
                while sent < len(view):
                    with view[sent:] as part:
                        sent += os.write(self._fd, part)
        except OSError:
            os.ftruncate(self._fd, before)
            os.lseek(self._fd, before, os.SEEK_SET)
            raise
        self.lines += data.count(b"\n")

    def close(self) -> None:
        os.close(self._fd)
        if not self.lines:
            self.path.unlink()
