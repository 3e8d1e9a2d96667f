"""Lines on their way into a sink that takes nothing for a while."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.backlog import Backlog
from collector.errors import OutputError
from collector.sink import Sink, open_sink

PIPE = 65536
"""What a pipe holds."""
LINE = b'"' + bytes(b"x" * 97) + b'"\n'


@pytest.fixture
def pipe() -> Iterator[tuple[int, Sink]]:
    ours, theirs = os.pipe()
    yield ours, Sink(theirs, "the pipe")
    os.close(ours)
    os.close(theirs)


class Refusing(Sink):
    """A file that takes nothing until it is told to."""

    refuses = True

    def flush(self, *, patience_s: float | None) -> bool:
        if self.refuses:
            raise OSError(28, os.strerror(28))
        return super().flush(patience_s=patience_s)


def refusing(path: Path) -> Refusing:
    return Refusing(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "out.jsonl")


def test_a_pipe_gets_whole_lines_and_all_of_them(pipe: tuple[int, Sink]) -> None:
    """Whatever is read, and however much of it, ends with a line; nobody is waited for."""
    ours, sink = pipe
    backlog = Backlog(sink, limit_bytes=1 << 20, log=print)
    for _ in range(2000):
        backlog.put(LINE)
    assert backlog.wants_room
    assert 0 < sink.written < 2000

    found = b""
    while sink.waiting:
        found += os.read(ours, PIPE)
        assert found.endswith(b"\n")
        backlog.flush()
    found += os.read(ours, PIPE)

    assert found == LINE * 2000
    assert sink.written == 2000
    assert not backlog.wants_room


def test_a_line_that_is_longer_than_a_pipe_takes_at_once_is_gone_on_with(pipe: tuple[int, Sink]) -> None:
    """In pieces, none of them twice."""
    ours, sink = pipe
    backlog = Backlog(sink, limit_bytes=1 << 20, log=print)
    long = b'"' + b"y" * (3 * PIPE) + b'"\n'
    backlog.put(long + LINE)

    found = b""
    while len(found) < len(long + LINE):
        found += os.read(ours, PIPE)
        backlog.flush()

    assert found == long + LINE
    assert sink.written == 2


def test_what_waits_has_a_limit_and_room_comes_with_half_of_it(pipe: tuple[int, Sink]) -> None:
    """In between it neither fills nor empties the ring line by line; both are said once."""
    ours, sink = pipe
    said: list[str] = []
    backlog = Backlog(sink, limit_bytes=40_000, log=said.append)
    while backlog.has_room:
        backlog.put(LINE)
    assert sink.waiting >= 40_000

    while sink.waiting > 20_000:
        assert not backlog.has_room
        os.read(ours, 4096)
        backlog.flush()

    assert backlog.has_room
    assert [line.partition(": ")[0] for line in said] == ["the pipe"] * 2


def test_a_file_that_refuses_is_tried_again_each_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with every line; that it refuses, and that it takes them again, is said once."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    said: list[str] = []
    sink = refusing(tmp_path / "out.jsonl")
    backlog = Backlog(sink, limit_bytes=1 << 20, log=said.append)
    for _ in range(7):
        backlog.put(LINE)
        assert backlog.retry_at == 101.0
    for now in (101.0, 102.0):
        backlog.flush()
        assert backlog.retry_at == now + 1
    sink.refuses = False
    backlog.put(LINE)
    assert sink.written == 0
    backlog.flush()

    assert (tmp_path / "out.jsonl").read_bytes() == LINE * 8
    assert backlog.retry_at == float("inf")
    assert len(said) == 2
    sink.close()


def test_at_the_end_what_is_too_much_goes_aside_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never are more than the limit, and what comes at once, kept; all lines are in one file, in order."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sink = refusing(tmp_path / "out.jsonl")
    backlog = Backlog(sink, limit_bytes=1000, log=print)
    backlog.end()
    for number in range(100):
        backlog.put(b'"%03d"\n' % number * 10)
        assert sink.waiting < 1000
        assert backlog.has_room
    with pytest.raises(OutputError, match=r"out\.jsonl: No space left on device after 0 lines"):
        backlog.close()
    said = sink.rescue()
    sink.close()

    (aside,) = tmp_path.glob("flowml-rescued-*")
    assert said == f"1000 more lines are in {aside}: make room and append them"
    assert aside.read_bytes() == b"".join(b'"%03d"\n' % number * 10 for number in range(100))


def test_a_reader_that_has_gone_is_told_once(pipe: tuple[int, Sink]) -> None:
    """Afterwards lines are only kept, for `rescue`."""
    ours, sink = pipe
    backlog = Backlog(sink, limit_bytes=1 << 20, log=print)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, ours)
    os.close(null)
    with pytest.raises(OutputError, match="the pipe: Broken pipe after 0 lines"):
        backlog.put(LINE)
    backlog.end()
    backlog.put(LINE)
    backlog.close()
    assert sink.waiting == 2 * len(LINE)


def test_a_pipe_that_is_named_has_a_reader_or_is_refused(tmp_path: Path) -> None:
    """Opening it would wait for one otherwise."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OutputError, match="is a pipe that nobody reads: start its reader first"):
        open_sink(str(fifo))
