"""The loop over a real table, into a pipe that nobody reads just now: what goes on, and what waits where."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector import kernel, netinfo
from collector.backlog import Backlog
from collector.drain import still_held
from collector.formatter import Formatter
from collector.hooks import Attachment
from collector.pipeline import run
from collector.poll import Poll
from collector.records import SweepMode
from collector.sink import Sink, open_sink
from collector.source import Source
from tests import frames
from tests.lab import wait_for
from tests.replay import Replay

pytestmark = pytest.mark.kernel

LINES = Formatter(None, as_record=True, with_features=False)


def send(programs: Replay, flags: str, ports: range) -> None:
    for port in ports:
        kernel.run_program(programs.loaded.xdp_fd, frame=frames.tcp(flags, sport=port))


def test_what_waits_in_the_table_is_fetched_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 connections ended, and the ring holds 20. A sweep that takes 0.1 s comes every 5 s, but not while
    each brings a full ring: then it would take two minutes."""
    sink = open_sink(str(tmp_path / "out.jsonl"))
    with Replay(flags=(), ring_bytes=4096) as programs:
        fast = programs.table.sweep

        def slow(mode: SweepMode) -> None:
            time.sleep(0.1)
            fast(mode)

        monkeypatch.setattr(programs.table, "sweep", slow)
        send(programs, "S", range(1, 504))
        send(programs, "R", range(1, 504))
        with running(programs, sink, []):
            wait_for(lambda: sink.written == 503, "all of them", timeout=40)


@contextmanager
def running(programs: Replay, sink: Sink, said: list[str]) -> Iterator[None]:
    """The loop in a thread of its own."""
    source = Source(Attachment(netinfo.find("lo")), programs.table)
    backlog = Backlog(sink, limit_bytes=4096, log=said.append)
    stop, tell = socket.socketpair()

    def body() -> None:
        run([source], LINES, backlog, stop=stop, resolution_s=0.01, duration_s=0, log=said.append)
        sink.close()

    with stop, tell:
        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield
        finally:
            tell.send(b"\0")
            thread.join(60)


@contextmanager
def running_into_a_pipe(programs: Replay, said: list[str]) -> Iterator[tuple[int, Sink]]:
    """The same: the pipe's other end, which is read to its end afterwards, and the sink."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb", buffering=0) as pipe:
        reader = threading.Thread(target=pipe.readall)
        sink = Sink(theirs, "the pipe")
        with running(programs, sink, said):
            yield ours, sink
            reader.start()
        reader.join(60)


def test_while_nobody_reads_silent_connections_go_on_timing_out() -> None:
    """Of a table with 7 slots, 21 unanswered connections have one in turn, as each group times out."""
    said: list[str] = []
    with (
        Replay(flags=(), max_connections=7, tcp_establish_timeout=100) as programs,
        running_into_a_pipe(programs, said) as (pipe, _),
    ):
        port = 1
        while not any("stay in the kernel" in line for line in said):
            send(programs, "S", range(port, port + 1))
            send(programs, "R", range(port, port + 1))
            port += 1
            # The loop is a thread: it is to have the interpreter before the ring is full.
            time.sleep(0.0005)
        for group in range(3):
            first = 20_000 + 7 * group
            send(programs, "S", range(first, first + 7))
            wait_for(lambda: not still_held(programs.counters()), "the sweep to end them")

        assert programs.counters()["table_full"] == 0
        assert programs.counters()["opened"] == port - 1 + 21
        found = b""
        while found.count(b"\n") < port - 1 + 21:
            found += os.read(pipe, 1 << 16)
        lines = [json.loads(line) for line in found.splitlines()]
        assert [line["reason"] for line in lines] == ["rst"] * (port - 1) + ["establish"] * 21


class Turns:
    """How often the loop has waited, and how often it has swept: about as often, unless it is busy."""

    def __init__(self, programs: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits = self.sweeps = 0
        wait, sweep = Poll.wait, programs.table.sweep

        def counted_wait(poll: Poll, timeout_s: float, *, rings: bool) -> tuple[bytes, bool]:
            self.waits += 1
            return wait(poll, timeout_s, rings=rings)

        def counted_sweep(mode: SweepMode) -> None:
            self.sweeps += 1
            sweep(mode)

        monkeypatch.setattr(Poll, "wait", counted_wait)
        monkeypatch.setattr(programs.table, "sweep", counted_sweep)


def test_a_full_ring_is_no_news_while_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop sleeps from sweep to sweep, instead of being told of it again and again."""
    said: list[str] = []
    with Replay(flags=(), max_connections=64, ring_bytes=4096) as programs:
        turns = Turns(programs, monkeypatch)
        with running_into_a_pipe(programs, said):
            port = 1
            while not said or not still_held(programs.counters()):
                send(programs, "S", range(port, port + 1))
                send(programs, "R", range(port, port + 1))
                port += 1
            waits, sweeps = turns.waits, turns.sweeps
            wait_for(lambda: turns.sweeps >= sweeps + 50, "fifty sweeps")
            assert turns.waits - waits <= 2 * (turns.sweeps - sweeps)


def test_what_has_no_room_is_refused_and_counted_and_all_else_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Backlog, ring and table full: offered = refused + written, exactly, once somebody reads. The backlog
    is never larger than it may be by more than the lines of one ring."""
    said: list[str] = []
    with (
        Replay(flags=(), max_connections=64, ring_bytes=4096) as programs,
        running_into_a_pipe(programs, said) as (pipe, sink),
    ):
        turns = Turns(programs, monkeypatch)
        offered = 0
        refused = None  # before nothing more was taken
        while refused is None or programs.counters()["table_full"] < refused + 17:
            offered += 1
            send(programs, "S", range(offered, offered + 1))
            send(programs, "R", range(offered, offered + 1))
            if refused is None and any("stay in the kernel" in line for line in said):
                refused = programs.counters()["table_full"]
        counters = programs.counters()
        assert offered == counters["opened"] + counters["table_full"]
        assert still_held(counters) == 64
        sweeps = turns.sweeps
        wait_for(lambda: turns.sweeps >= sweeps + 20, "twenty sweeps, each of which could bring a ring")
        assert 4096 <= sink.waiting < 4096 + 20 * 1000

        found = b""
        while found.count(b"\n") < counters["opened"]:
            found += os.read(pipe, 1 << 16)
        ports = [json.loads(line)["src_port"] for line in found.splitlines()]
        assert len(set(ports)) == len(ports) == offered - counters["table_full"]
        wait_for(lambda: any("come out of the kernel again" in line for line in said), "that to be said")
        assert still_held(programs.counters()) == 0
