"""Lines out: that they are whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from collector.errors import OutputError
from collector.sink import Sink, open_sink


def test_lines_are_appended(tmp_path: Path) -> None:
    """What was in the file stays."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'"before"\n')
    sink = open_sink(str(path))
    sink.write(b'"one"\n"two"\n')
    sink.close()

    assert path.read_bytes() == b'"before"\n"one"\n"two"\n'
    assert sink.written == 2


@pytest.mark.parametrize("name", ["no/such/folder", "."])
def test_a_path_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """One line that names it."""
    with pytest.raises(OutputError, match=r"cannot be written by .*: name another --outfile") as error:
        open_sink(str(tmp_path / name))
    assert len(str(error.value).splitlines()) == 1


def test_a_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptor 1 would be some other file."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        open_sink("-")


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    """A file that takes 25 bytes of three lines of 10 keeps two; the third is kept and comes later."""
    path = tmp_path / "out.jsonl"
    lines = [b'"1234567"\n', b'"2345678"\n', b'"3456789"\n']
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sink = Sink(fd, "out.jsonl")
    real_write = os.write
    room = 25

    def write(target: int, data: memoryview) -> int:
        nonlocal room
        if target != fd:
            return real_write(target, data)
        if not room:
            raise OSError(28, os.strerror(28))
        sent = real_write(target, data[:room])
        room -= sent
        return sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OutputError, match="No space left on device after 2 lines"):
            sink.write(b"".join(lines))
        assert path.read_bytes() == lines[0] + lines[1]
        sink.write(b'"4"\n')  # kept, not tried
        assert path.read_bytes() == lines[0] + lines[1]
        room = 1000

        said = sink.rescue()

    assert said == "all lines are in it by now"
    assert path.read_bytes() == b"".join(lines) + b'"4"\n'
    assert sink.written == 4


def test_half_a_line_is_taken_back_from_a_redirected_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`> FILE` appends to nothing: the next line comes where the half one was, and not behind a hole."""
    path = tmp_path / "out.jsonl"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    sink = Sink(fd, "standard output")
    real_write = os.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            os,
            "write",
            lambda target, data: real_write(target, data[:3]) if path.stat().st_size < 3 else full(),
        )
        with pytest.raises(OutputError):
            sink.write(b'"1234"\n')
    assert path.read_bytes() == b""
    assert sink.rescue() == "all lines are in it by now"
    sink.close()
    assert path.read_bytes() == b'"1234"\n'


def full() -> int:
    raise OSError(28, os.strerror(28))


def test_what_others_wrote_is_not_taken_back(tmp_path: Path) -> None:
    """Half a line, and somebody else's behind it: the other's stays."""
    path = tmp_path / "out.jsonl"
    sink = open_sink(str(path))
    real_write = os.write

    def write(target: int, data: memoryview) -> int:
        if path.stat().st_size:
            full()
        sent = real_write(target, data[:3])
        with path.open("ab") as other:
            other.write(b'\n"other"\n')
        return sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OutputError):
            sink.write(b'"1234"\n')
    sink.close()
    assert path.read_bytes() == b'"12\n"other"\n'


def test_a_file_is_begun_anew(tmp_path: Path) -> None:
    """For what is made from a file, and is made again."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'"before"\n')
    sink = open_sink(str(path), append=False)
    sink.write(b'"one"\n')
    sink.close()

    assert path.read_bytes() == b'"one"\n'


def test_lines_that_fit_nowhere_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, and no folder for temporary files at all."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    sink = open_sink("/dev/full")
    with pytest.raises(OutputError):
        sink.write(b'"1"\n"2"\n')

    said = sink.rescue()

    sink.close()
    assert said.startswith("2 more lines are lost: no temporary file can be written either (No usable")


def test_the_null_device_takes_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a file, not by the page like a pipe: nobody reads it, and nobody else's lines can come between."""
    sink = open_sink(os.devnull)
    real_write = os.write
    sizes: list[int] = []

    def write(target: int, data: memoryview) -> int:
        sizes.append(len(data))
        return real_write(target, data)

    monkeypatch.setattr(os, "write", write)
    sink.write(b'"1234567"\n' * 10_000, 10_000)
    sink.close()

    assert (sizes, sink.written) == ([100_000], 10_000)
