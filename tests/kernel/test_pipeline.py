"""The loop over real tables: how it ends, and that it empties every table whatever goes wrong in one.

Nothing is attached; packets come in one by one. The interface is the loopback, which is always up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector import kernel, netinfo
from collector.backlog import Backlog
from collector.errors import FlowmlError, KernelError, OutputError
from collector.formatter import Formatter
from collector.hooks import Attachment
from collector.observer import Observer
from collector.pace import Pace
from collector.pipeline import run
from collector.records import Rows, SweepMode
from collector.sink import Sink, open_sink
from collector.source import Source
from tests import frames
from tests.lab import wait_for
from tests.replay import Replay

pytestmark = pytest.mark.kernel

NEVER_S = 3600.0
LINES = Formatter(None, as_record=True, with_features=False)


@contextmanager
def told_to_stop() -> Iterator[socket.socket]:
    """The socket of a run that was told to end before it began."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"\0")
        yield ours


def source(programs: Replay) -> Source:
    return Source(Attachment(netinfo.find("lo")), programs.table)


def backlog(sink: Sink) -> Backlog:
    return Backlog(sink, limit_bytes=1 << 20, log=print)


def send(programs: Replay, flags: str, ports: range) -> None:
    for port in ports:
        kernel.run_program(programs.loaded.xdp_fd, frame=frames.tcp(flags, sport=port))


def break_the_sweep(programs: Replay) -> None:
    """Puts a file in the place of the sweep's program: the kernel will refuse to run it."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, programs.table._sweep_fd)
    os.close(null)


def ports_in(path: Path) -> list[int]:
    return [json.loads(line)["src_port"] for line in path.read_text().splitlines()]


def run_to_its_end(
    sources: list[Source], sink: Sink, stop: socket.socket, log: Callable[[str], None] = print
) -> None:
    run(sources, LINES, backlog(sink), stop=stop, resolution_s=NEVER_S, duration_s=0, log=log)


def test_a_stop_is_seen_though_a_sweep_takes_longer_than_the_resolution(tmp_path: Path) -> None:
    """With a resolution of nothing the next sweep is always due; the run ends all the same."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            run(
                [source(programs)],
                LINES,
                backlog(sink),
                stop=stop,
                resolution_s=0,
                duration_s=NEVER_S,
                log=print,
            )
        except BaseException as error:
            errors.append(error)

    with Replay(flags=()) as programs, told_to_stop() as stop:
        send(programs, "S", range(1, 8))
        sink = open_sink(str(tmp_path / "out.jsonl"))
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        wait_for(lambda: not thread.is_alive(), "the run to end", timeout=60)
        sink.close()
    assert errors == []
    assert ports_in(tmp_path / "out.jsonl") == [*range(1, 8)]


def test_sweeps_take_a_fiftieth_of_the_time_at_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of which a sweep takes 50 ms is not swept every millisecond: the next comes 2.5 s later."""
    sweeps: list[SweepMode] = []

    def slow(mode: SweepMode) -> None:
        sweeps.append(mode)
        time.sleep(0.05)

    with Replay(flags=()) as programs:
        monkeypatch.setattr(programs.table, "sweep", slow)
        sink = open_sink(str(tmp_path / "out.jsonl"))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            run(
                [source(programs)],
                LINES,
                backlog(sink),
                stop=ours,
                resolution_s=0.001,
                duration_s=1,
                log=print,
            )
        sink.close()
    assert sweeps == [SweepMode.TIMEOUT]


def test_a_duration_ends_it_with_everything_written(tmp_path: Path) -> None:
    """Ended and open connections."""
    with Replay(flags=()) as programs:
        send(programs, "S", range(1, 13))
        send(programs, "R", range(1, 8))
        sink = open_sink(str(tmp_path / "out.jsonl"))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            run(
                [source(programs)],
                LINES,
                backlog(sink),
                stop=ours,
                resolution_s=0.1,
                duration_s=0.05,
                log=print,
            )
        sink.close()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["rst"] * 7 + ["shutdown"] * 5


class Batches(Observer):
    """How many connections there were in each."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def written(self, name: str, rows: Rows, took_s: float) -> None:
        self.found.append(len(rows))


def test_what_ends_during_a_rest_is_one_batch_and_signals_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rest that would never be over: SIGHUP is acted upon, a stop ends it, and nothing is lost."""

    def rest_for_good(pace: Pace, connections: int, now: float) -> None:
        pace.rests_until = now + NEVER_S

    monkeypatch.setattr(Pace, "took", rest_for_good)
    told, batches = [], Batches()
    ours, theirs = socket.socketpair()
    with Replay(flags=()) as programs, ours, theirs:
        sink = open_sink(str(tmp_path / "out.jsonl"))

        def body() -> None:
            run(
                [source(programs)],
                LINES,
                backlog(sink),
                stop=ours,
                resolution_s=NEVER_S,
                duration_s=0,
                log=print,
                on_hangup=lambda: told.append(signal.SIGHUP),
                observers=[batches],
            )

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        send(programs, "S", range(1, 102))
        send(programs, "R", range(1, 2))
        wait_for(lambda: batches.found, "the first line")
        send(programs, "R", range(2, 102))
        theirs.send(bytes([signal.SIGHUP]))
        wait_for(lambda: told, "SIGHUP to be acted upon")
        theirs.send(bytes([signal.SIGTERM]))
        wait_for(lambda: not thread.is_alive(), "the run to end")
        sink.close()

    assert batches.found == [1, 100]
    assert ports_in(tmp_path / "out.jsonl") == [*range(1, 102)]


@pytest.mark.parametrize("ended", [range(1), range(1, 4)], ids=["open", "some ended"])
def test_a_full_disk_leaves_no_table_undrained(
    ended: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tables, and no room for a single line: what both held is kept, and put where there is room."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Replay(flags=()) as one, Replay(flags=()) as other, told_to_stop() as stop:
        for programs, ports in ((one, range(1, 8)), (other, range(11, 16))):
            send(programs, "S", ports)
        send(one, "R", ended)
        sink = open_sink("/dev/full")
        with pytest.raises(OutputError, match="No space left on device after 0 lines"):
            run_to_its_end([source(one), source(other)], sink, stop)
        said = sink.rescue()
        sink.close()

    found = re.fullmatch(r"12 more lines are in (\S+): make room and append them", said)
    assert found is not None
    assert sorted(ports_in(Path(found[1]))) == [*range(1, 8), *range(11, 16)]


@pytest.mark.parametrize("outfile", ["out.jsonl", "/dev/full"])
def test_a_table_that_cannot_be_emptied_does_not_keep_the_others_from_it(
    outfile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep of the first is refused; what the second held is in the file, or, if the disk is full
    as well, where there is room. Each error is said."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logged: list[str] = []
    with Replay(flags=()) as broken, Replay(flags=()) as whole, told_to_stop() as stop:
        send(broken, "S", range(1, 4))
        send(whole, "S", range(11, 16))
        break_the_sweep(broken)
        sink = open_sink(str(tmp_path / outfile))
        with pytest.raises(FlowmlError) as error:
            run_to_its_end([source(broken), source(whole)], sink, stop, logged.append)
        said = sink.rescue() if outfile == "/dev/full" else ""
        sink.close()

    refusals = [str(error.value), *logged]
    assert sum("the sweep of the flow table was refused: Invalid argument" in line for line in refusals) == 1
    if outfile == "/dev/full":
        assert isinstance(error.value, OutputError)
        (rescued,) = tmp_path.glob("flowml-rescued-*")
        assert str(rescued) in said
        assert ports_in(rescued) == [*range(11, 16)]
    else:
        assert isinstance(error.value, KernelError)
        assert ports_in(tmp_path / outfile) == [*range(11, 16)]
