"""Captures to lines: one after the other, or several at a time with the same outcome."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from collector.errors import InputError, KernelError
from collector.formatter import Formatter
from collector.lines import Origin
from collector.order import by_start
from collector.progress import Advance
from collector.records import Rows
from collector.replay import CLOCK_OFFSET_NS, Limits, Replay

__all__ = ["STANDARD_INPUT", "Outcome", "Source", "lines_of", "open_input", "several", "wait_for_input"]

STANDARD_INPUT = "-"
_COPIED_AT_ONCE = 1 << 20
_REMEDIES = {
    "different from the snapshot length": "`editcap -F nsecpcap IN OUT` makes them one",
    # Said of two interfaces of raw IP too, by libpcap 1.10.
    "different from the type": "capture into a file for each link type; if all have this one, "
    "`editcap -F nsecpcap IN OUT` makes a file that can be read",
}
"""What to do about what libpcap says, by a part of it."""

Write = Callable[[bytes, int], object]
"""Takes lines, and how many they are."""


@dataclass(slots=True)
class Outcome:
    """What became of the packets and connections of a capture, or of several."""

    counts: Counter[str] = field(default_factory=Counter)
    """The counters of the core, and what is odd about the packets: names of `collector.replay.Account`."""
    trouble: str = ""
    """Why reading ended before the capture did."""
    stopped: bool = False


class Source(NamedTuple):
    """An input that is open: a capture, or what may be one."""

    name: str
    """As the user gave it."""
    fd: int
    head: bytes = b""
    """What was read of it already."""


def open_input(name: str, *, stoppable: bool = False) -> int:
    """A descriptor of a file, or of standard input.

    Parameters
    ----------
    stoppable
        A named pipe that nobody writes to yet is not waited for: whoever reads does, and can be stopped.

    Raises
    ------
    InputError
        It cannot be opened, or is a folder.
    """
    try:
        if name == STANDARD_INPUT:
            if sys.stdin is None:  # and descriptor 0 is by now another file, or will be
                raise InputError("standard input is closed: name a capture")
            return os.dup(0)
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if stoppable else 0))
    except OSError as error:
        raise InputError(f"{name} cannot be opened ({error.strerror}): name a capture") from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"{name} is a folder: name the captures in it")
    if stoppable:
        os.set_blocking(fd, True)
    return fd


def wait_for_input(fd: int, stop_fd: int) -> bool:
    """Waits until there is something to read, or nothing more to come; False: reading is to end."""
    ready, _, _ = select.select([fd, stop_fd], [], [])
    return stop_fd not in ready


def lines_of(
    source: Source, limits: Limits, formatter: Formatter, write: Write, stop_fd: int, advance: Advance
) -> Outcome:
    """Reads a capture to its end, to trouble, or to a stop; writes a line a connection, in order of start."""
    origin = Origin(CLOCK_OFFSET_NS, capture=source.name)
    try:
        replay = Replay(source.fd, limits, stop_fd, source.head)
    except MemoryError:
        raise KernelError(
            f"there is no memory for {limits.max_connections} connections: lower --max-connections"
        ) from None
    outcome = Outcome()
    with replay:
        for rows in by_start(_batches(replay, advance)):
            write(formatter.lines(rows, origin), len(rows))
        account = replay.account()
        outcome.trouble = replay.trouble
        outcome.stopped = replay.stopped
    outcome.counts.update(account.counters)
    for name in ("packets", "backward", "impossible", "hellos_cut"):
        outcome.counts[name] += getattr(account, name)
    if outcome.trouble:
        outcome.trouble = _trouble(source.name, outcome)
    return outcome


def _batches(replay: Replay, advance: Advance) -> Iterator[Rows]:
    before = 0
    while not replay.done:
        yield replay.read()
        advance(replay.bytes_taken - before)
        before = replay.bytes_taken


def _trouble(name: str, outcome: Outcome) -> str:
    packets = outcome.counts["packets"]
    trouble = outcome.trouble
    for part, remedy in _REMEDIES.items():
        if part in trouble:
            trouble = f"{trouble}: {remedy}"
    if not packets:
        return f"{name} cannot be read as a capture: {trouble}"
    return (
        f"{name} cannot be read beyond packet {packets}: {trouble}; the connections until there are written"
    )


def several(
    names: Sequence[str],
    limits: Limits,
    formatter: Formatter,
    write: Write,
    stop_fd: int,
    advance: Advance,
    jobs: int,
) -> Iterator[Outcome]:
    """The outcome of each capture, in their order, once its lines are written: `lines_of` for each.

    A capture that cannot be opened is in trouble like one that cannot be read.
    """
    if jobs > 1 and len(names) > 1:
        yield from _at_a_time(names, limits, formatter, write, stop_fd, advance, jobs)
        return
    for name in names:
        outcome = _one(name, limits, formatter, write, stop_fd, advance)
        yield outcome
        if outcome.stopped:
            return


def _one(
    name: str, limits: Limits, formatter: Formatter, write: Write, stop_fd: int, advance: Advance
) -> Outcome:
    try:
        fd = open_input(name, stoppable=True)
    except InputError as error:
        return Outcome(trouble=str(error))
    try:
        return lines_of(Source(name, fd), limits, formatter, write, stop_fd, advance)
    finally:
        os.close(fd)


def _at_a_time(
    names: Sequence[str],
    limits: Limits,
    formatter: Formatter,
    write: Write,
    stop_fd: int,
    advance: Advance,
    jobs: int,
) -> Iterator[Outcome]:
    """Each capture in a process, its lines in a file, the files put together in order.

    The processes inherit the descriptor that a stop makes readable, so it stops each of them.
    """
    import multiprocessing
    import tempfile
    from concurrent.futures import ProcessPoolExecutor

    with (
        tempfile.TemporaryDirectory(prefix="flowml-") as folder,
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool,
    ):
        files = [Path(folder) / str(number) for number in range(len(names))]
        futures = [
            pool.submit(_into_file, file, name, limits, formatter, stop_fd)
            for file, name in zip(files, names, strict=True)
        ]
        for file, future in zip(files, futures, strict=True):
            outcome, size = future.result()
            with file.open("rb") as lines:
                while part := lines.readlines(_COPIED_AT_ONCE):
                    write(b"".join(part), len(part))
            file.unlink()
            advance(size)
            yield outcome
            if outcome.stopped:
                pool.shutdown(cancel_futures=True)
                return


def _into_file(
    file: Path, name: str, limits: Limits, formatter: Formatter, stop_fd: int
) -> tuple[Outcome, int]:
    """The outcome of one capture, its lines in the file, and how much was read."""
    size = 0

    def advance(step: int) -> None:
        nonlocal size
        size += step

    with file.open("wb") as lines:
        outcome = _one(name, limits, formatter, lambda part, _: lines.write(part), stop_fd, advance)
    return outcome, size
