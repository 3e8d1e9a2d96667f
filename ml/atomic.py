"""Files that are replaced together, or stay as they were."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from collector.errors import OutputError

__all__ = ["replace_all"]


def replace_all(contents: Sequence[tuple[Path, bytes]]) -> None:
    """Writes files so that whatever fails while writing leaves the old ones intact.

    All are written under temporary names in their own folders and are on the disk before the first is
    renamed. Renames happen in the order given.

    Raises
    ------
    OutputError
        A file cannot be written: a full disk, missing rights, no such folder.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, data in contents:
            if path.is_dir():  # a rename would find out only after the first files are replaced
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            staged.append((temporary, path))
            _write(temporary, data)
        for temporary, path in staged:
            temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; free space, correct its rights, or name another file"
        ) from error
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes the renames outlast a power cut. The files are whole without it, so failing is no failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
