"""Files that are replaced together."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from collector.errors import OutputError
from ml.atomic import replace_all


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    """Old files are replaced, new ones made with the rights of any new file; nothing else is left."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"old")
    (tmp_path / "plain").touch()

    replace_all([(one, b"1"), (two, b"2")])

    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")
    assert names(tmp_path) == ["one", "plain", "two"]
    assert (tmp_path / "plain").stat().st_mode == two.stat().st_mode


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full at the second file, both are as they were and nothing is left behind."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"old 1")
    two.write_bytes(b"old 2")
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(OutputError) as refused:
        replace_all([(one, b"1"), (two, b"2")])

    assert str(refused.value) == (
        f"cannot write {two}: No space left on device; free space, correct its rights, or name another file"
    )
    assert (one.read_bytes(), two.read_bytes()) == (b"old 1", b"old 2")
    assert names(tmp_path) == ["one", "two"]


def test_everything_is_on_disk_before_the_first_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the writing, which may fail, comes before all the renaming, which is in the order given."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        events.append("sync")
        fsync(descriptor)

    def note_replace(self: Path, target: Any) -> Path:
        events.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)

    replace_all([(tmp_path / "one", b"1"), (tmp_path / "two", b"2")])

    assert events == ["sync", "sync", "one", "two", "sync"]


def test_folder_in_the_way(tmp_path: Path) -> None:
    """A folder of the name of one file leaves the others as they were."""
    (tmp_path / "one").write_bytes(b"old")
    (tmp_path / "two").mkdir()

    with pytest.raises(OutputError, match="two: Is a directory"):
        replace_all([(tmp_path / "one", b"1"), (tmp_path / "two", b"2")])

    assert (tmp_path / "one").read_bytes() == b"old"
    assert names(tmp_path) == ["one", "two"]


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is said, in one line."""
    with pytest.raises(OutputError) as refused:
        replace_all([(tmp_path / "no" / "one", b"1")])

    assert str(refused.value).startswith(
        f"cannot write {tmp_path / 'no' / 'one'}: No such file or directory; "
    )
