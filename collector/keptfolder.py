"""Folders that are kept open, so that files in them can be opened again once rights are gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["KeptFolder", "KeptFolders"]


class KeptFolder:
    """A folder by descriptor: found once, with the rights of that moment, whatever is on the way to it.

    Raises
    ------
    OSError
        It is not there, or not to be reached.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, name: str, flags: int) -> int:
        """A descriptor of the file that has the name now, with the rights of now. Raises OSError."""
        return os.open(name, flags, 0o644, dir_fd=self._fd)

    def close(self) -> None:
        os.close(self._fd)


class KeptFolders:
    """Opens files for reading, again and again, through their folders as they were found the first time."""

    def __init__(self) -> None:
        self._by_path: dict[Path, KeptFolder] = {}

    def open(self, path: Path) -> BinaryIO:
        """The file of that path by now, with the rights of now. Raises OSError."""
        folder = self._by_path.get(path.parent)
        if folder is None:
            folder = self._by_path[path.parent] = KeptFolder(path.parent)
        return os.fdopen(folder.open(path.name, os.O_RDONLY | os.O_CLOEXEC), "rb")

    def close(self) -> None:
        while self._by_path:
            self._by_path.popitem()[1].close()
