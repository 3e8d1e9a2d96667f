"""The output takes nothing: full disk, slow reader, no reader. What has a place to be kept is not lost."""

from __future__ import annotations

import json
import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import frames
from tests.lab import Pair, run, veth_pair, wait_for
from tests.live.common import CAPTURE, connection, connections, is_attached, send
from tests.tool import Running, flowml, run_to_its_end

pytestmark = pytest.mark.live

SMALL = "[output]\nbacklog_bytes = 4096\n[capture]\nring_bytes = 4096\n"
"""A backlog of some ten lines, and a ring of 20 connections."""


@pytest.fixture
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four pages."""
    folder = tmp_path / "disk"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder])
    yield folder
    run(["umount", folder])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def ports(lines: list[Any]) -> list[int]:
    return sorted(line["src_port"] for line in lines)


def in_file(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def rescued(said: str) -> tuple[int, list[Any]]:
    """How many lines a run says it has put aside, and those lines; the file is gone afterwards."""
    (found,) = re.findall(r"(\d+) more lines are in (\S+):", said)
    path = Path(found[1])
    lines = in_file(path)
    path.unlink()
    return int(found[0]), lines


@contextmanager
def piped(wire: Pair, *options: str | Path) -> Iterator[tuple[Running, int]]:
    """`flowml collect` with its lines into a pipe, of which nothing is read yet."""
    ours, theirs = os.pipe()
    try:
        arguments = ("collect", wire.right.iface, *CAPTURE, *options, "--outfile", "-")
        with flowml(wire.right, *arguments, own_outfile=True, stdout=theirs) as running:
            os.close(theirs)
            yield running, ours
    finally:
        os.close(ours)


def read_to_its_end(pipe: int) -> list[Any]:
    """What comes out of a pipe until nobody is left to write to it."""
    found = b""
    while part := os.read(pipe, 1 << 16):
        found += part
    return [json.loads(line) for line in found.splitlines()]


def test_a_full_disk_ends_nothing_and_loses_nothing(wire: Pair, disk: Path, tmp_path: Path) -> None:
    """Lines are kept while it is full, and written once there is room; both are said, once. It goes on."""
    outfile = disk / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        send(wire, connections(range(101)), tmp_path)
        wait_for(lambda: "No space left on device: lines are kept" in running.stderr(), "the disk to be full")
        send(wire, connections(range(101, 151)), tmp_path)
        assert is_attached(wire)
        whole = in_file(outfile)  # no half line
        assert 0 < len(whole) < 101

        run(["mount", "-o", "remount,size=1m", disk])
        wait_for(lambda: len(in_file(outfile)) == 151, "what was kept")
        send(wire, connections(range(151, 163)), tmp_path)
        wait_for(lambda: len(in_file(outfile)) == 163, "what came later")
        assert running.stop() == 0

        assert ports(in_file(outfile)) == [1024 + n for n in range(163)]
        said = running.stderr()
    assert said.count("No space left on device") == said.count("it takes lines again") == 1
    assert "Done. Processed 163 connections" in said


def test_on_a_full_disk_memory_is_bounded_and_the_rest_waits_in_the_kernel(
    wire: Pair, disk: Path, small: Path, tmp_path: Path
) -> None:
    """Beyond `backlog_bytes` ended connections stay in ring and table; with room they all come, each once."""
    outfile = disk / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--config", small, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        send(wire, connections(range(500)), tmp_path)
        wait_for(lambda: "finished connections stay in the kernel" in running.stderr(), "the backlog full")

        run(["mount", "-o", "remount,size=1m", disk])
        wait_for(lambda: len(in_file(outfile)) == 500, "all of them")
        assert running.stop() == 0
        assert ports(in_file(outfile)) == [1024 + n for n in range(500)]
        counters = running.counters()
        assert (counters["opened"], counters["delivered"]) == (500, 500)
        assert counters["parked"] > 0
        assert "connections come out of the kernel again" in running.stderr()


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        (0o777, "was deleted: it is made anew"),
        (0o755, "was deleted, and is not made anew (Permission denied): what is written is lost"),
    ],
    ids=["its own folder", "root's folder"],
)
def test_a_file_that_is_deleted_is_made_anew(wire: Pair, mode: int, answer: str, tmp_path: Path) -> None:
    """Where the process may: lines go to a file of that name again. Either is said, once."""
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    outfile = folder / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        outfile.unlink()
        wait_for(lambda: answer in running.stderr(), answer)
        send(wire, connection(0), tmp_path)
        assert running.stop() == 0
        assert running.stderr().count("was deleted") == 1
    assert outfile.exists() == (mode == 0o777)
    assert not outfile.exists() or ports(in_file(outfile)) == [1024]


def test_stopped_on_a_full_disk_it_puts_aside_what_is_left(wire: Pair, disk: Path, tmp_path: Path) -> None:
    """Whole lines stay in the file, the others go where there is room; the exit code tells."""
    outfile = disk / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        send(wire, connections(range(101)), tmp_path)
        send(wire, [frames.tcp("S", sport=9)], tmp_path)

        assert running.stop() == 4
        said = running.stderr().splitlines()[-1]
        lines = in_file(outfile)
    count, others = rescued(said)
    assert "No space left on device" in said
    assert 0 < len(lines) < 101
    assert count == len(others)
    assert ports(lines + others) == [9, *(1024 + n for n in range(101))]
    wait_for(lambda: not is_attached(wire), "the hooks to be gone")


def test_stopped_on_a_full_disk_it_keeps_memory_bounded(
    wire: Pair, disk: Path, small: Path, tmp_path: Path
) -> None:
    """What is still in the kernel goes aside piece by piece, all of it into one file."""
    outfile = disk / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--config", small, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        send(wire, connections(range(500)), tmp_path)
        wait_for(lambda: "finished connections stay in the kernel" in running.stderr(), "the backlog full")

        assert running.stop() == 4
        lines = in_file(outfile)
        count, others = rescued(running.stderr())
    assert count == len(others)
    assert ports(lines + others) == [1024 + n for n in range(500)]


def test_a_slow_reader_gets_every_line_in_its_time(wire: Pair, small: Path, tmp_path: Path) -> None:
    """While it reads nothing lines are kept, then connections wait in the kernel; read, all come, whole."""
    with piped(wire, "--config", small) as (running, pipe):
        send(wire, connections(range(1000)), tmp_path)
        wait_for(lambda: "finished connections stay in the kernel" in running.stderr(), "the backlog full")

        found = b""
        while found.count(b"\n") < 1000:
            assert select.select([pipe], [], [], 60)[0], "nothing more comes"
            found += os.read(pipe, 1 << 12)
        assert running.stop() == 0
        assert ports([json.loads(line) for line in found.splitlines()]) == [1024 + n for n in range(1000)]
        assert running.counters()["parked"] > 0


def test_a_reader_that_does_not_read_hides_nothing_else(wire: Pair, small: Path, tmp_path: Path) -> None:
    """The loss of the interface is noticed all the same; what the table holds then comes as it is read."""
    with piped(wire, "--config", small) as (running, pipe):
        send(wire, connections(range(1000)), tmp_path)
        wait_for(lambda: "finished connections stay in the kernel" in running.stderr(), "the backlog full")

        wire.right.run(["ip", "link", "del", wire.right.iface])
        wait_for(lambda: "eth0 has gone: detached" in running.stderr(), "the loss to be noticed")

        assert ports(read_to_its_end(pipe)) == [1024 + n for n in range(1000)]
        assert running.process.wait(60) == 6


def test_a_reader_that_goes_away_ends_it(wire: Pair, tmp_path: Path) -> None:
    """At once, though there is nothing to be written; what is open is put aside."""
    with piped(wire) as (running, pipe):
        send(wire, [*connection(0), frames.tcp("S", sport=9)], tmp_path)
        assert json.loads(os.read(pipe, 4096))["src_port"] == 1024
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, pipe)
        os.close(null)

        assert running.process.wait(60) == 4
        said = running.stderr()
    count, others = rescued(said)
    assert (count, ports(others)) == (1, [9])
    assert "standard output: its reader has gone after 1 lines" in said
    wait_for(lambda: not is_attached(wire), "the hooks to be gone")


def test_a_reader_that_does_not_read_cannot_hold_it(wire: Pair, tmp_path: Path) -> None:
    """Ctrl+C ends it all the same; what the pipe did not take is put aside."""
    with piped(wire) as (running, pipe):
        send(wire, connections(range(503)), tmp_path)
        assert running.stop() == 4
        said = running.stderr()
        taken = read_to_its_end(pipe)
    count, others = rescued(said)
    assert count == len(others)
    assert f"standard output: nobody reads it after {len(taken)} lines" in said
    assert ports(taken + others) == [1024 + n for n in range(503)]


def test_a_pipe_by_name_that_nobody_reads_is_refused(wire: Pair, tmp_path: Path) -> None:
    """Before anything is attached, in one line; with a reader it is written to like any other."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    code, said = run_to_its_end("collect", wire.right.iface, "--outfile", fifo, ns=wire.right.ns)
    assert (code, len(said.splitlines())) == (4, 1)
    assert f"{fifo} is a pipe that nobody reads: start its reader first" in said

    pipe = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(pipe, True)
    try:
        arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", fifo)
        with flowml(wire.right, *arguments, own_outfile=True) as running:
            send(wire, connection(0), tmp_path)
            assert json.loads(os.read(pipe, 4096))["src_port"] == 1024
            assert running.stop() == 0
    finally:
        os.close(pipe)


def test_stopped_and_continued_it_has_everything(wire: Pair, tmp_path: Path) -> None:
    """While the collector is stopped the ring fills up, and connections wait in their slots; none is lost."""
    settings = tmp_path / "settings.toml"
    settings.write_text("[capture]\nring_bytes = 4096\n")
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--config", settings) as running:
        running.process.send_signal(signal.SIGSTOP)
        send(wire, connections(range(503)), tmp_path)
        assert running.lines() == []
        running.process.send_signal(signal.SIGCONT)

        wait_for(lambda: len(running.lines()) == 503, "all of them")
        assert running.stop() == 0
        assert ports(running.lines()) == [1024 + n for n in range(503)]
        counters = running.counters()
        assert (counters["opened"], counters["delivered"], counters["tracked"]) == (503, 503, 1509)
        assert counters["parked"] >= 503 - 4096 // 200
