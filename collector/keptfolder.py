"""Folders that are kept open, so that files in them can be opened again once rights are gone."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from collector.trust import check_trusted, open_trusted

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

    def stat(self) -> os.stat_result:
        """Whose it is, and who may write into it."""
        return os.fstat(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class KeptFolders:
    """Opens trusted files for reading, again and again, though rights may be gone after the first time.

    The first time the whole way to a file is looked at (`open_trusted`). Later that is so as well, where it
    can be walked with the rights of then; else the file is found through its folder, as that was the first
    time, and has to be the file itself: where a link leads could not be looked at.

    Parameters
    ----------
    users
        The ids of those whose word is good; root's is in any case.
    """

    def __init__(self, users: Collection[int]) -> None:
        self._users = users
        self._by_path: dict[Path, KeptFolder] = {}

    def open(self, path: Path) -> BinaryIO:
        """The file of that path by now, with the rights of now.

        Raises
        ------
        OSError
            It cannot be opened.
        ModelError
            Others can change it.
        """
        folder = self._by_path.get(path.parent)
        try:
            file = open_trusted(path, self._users)
        except PermissionError:
            if folder is None:
                raise
            file = os.fdopen(folder.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
            try:
                check_trusted(path, os.fstat(file.fileno()), self._users)
                check_trusted(path.parent, folder.stat(), self._users)
            except BaseException:
                file.close()
                raise
        if folder is None:
            self._by_path[path.parent] = KeptFolder(path.parent)
        return file

    def close(self) -> None:
        while self._by_path:
            self._by_path.popitem()[1].close()
