"""Two CPUs at once on one flow: not a segment or a byte is lost, and it ends once.

The threads run the program in the kernel (BPF_PROG_TEST_RUN without the interpreter's lock), each on its CPU.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from collector import kernel
from tests import frames
from tests.compare import Raw, raw_of_rows
from tests.replay import Replay, changed_core

pytestmark = pytest.mark.kernel

RUNS = 1_500_007  # prime, so that a lost update cannot hide in a round number

UNPROTECTED = (
    "-Datomic_add(at,value)=({ __typeof__(*(at)) was = *(volatile __typeof__(*(at)) *)(at);"
    " *(volatile __typeof__(*(at)) *)(at) = was + (value); was; })",
)

SYN = frames.tcp(flags="S")
DATA = frames.tcp(flags="A", payload=b"x" * 83)
ANSWER = frames.answer("A", b"y" * 59)
FIN = frames.tcp(flags="FA")
FIN_BACK = frames.answer("FA")
RST = frames.tcp(flags="R")
RST_BACK = frames.answer("R")


def ip_size(frame: bytes) -> int:
    return int.from_bytes(frame[16:18], "big")


def on_all_cpus(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs the jobs at once, each on a CPU of its own where there are enough."""
    cpus = sorted(os.sched_getaffinity(0))
    ready = threading.Barrier(len(jobs))
    failures: list[BaseException] = []

    def run(job: Callable[[], None], cpu: int) -> None:
        try:
            os.sched_setaffinity(0, {cpu})
            ready.wait()
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job, cpus[i % len(cpus)])) for i, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def programs() -> Iterator[Replay]:
    """With the kernel's own clock."""
    with Replay(flags=()) as programs:
        yield programs


def hammer(programs: Replay, frame: bytes, runs: int = RUNS) -> Callable[[], None]:
    return lambda: _repeat(programs, frame, runs)


def _repeat(programs: Replay, frame: bytes, runs: int) -> None:
    kernel.run_program(programs.loaded.xdp_fd, frame=frame, repeat=runs)


@pytest.mark.parametrize(
    ("first", "second"),
    [(DATA, DATA), (DATA, ANSWER)],
    ids=["same direction", "both directions"],
)
def test_no_segment_and_no_byte_is_lost(programs: Replay, first: bytes, second: bytes) -> None:
    """Two CPUs, one flow: the sums are what was sent, and there is one record."""
    _repeat(programs, SYN, 1)

    on_all_cpus([hammer(programs, first), hammer(programs, second)])
    (raw,) = raw_of_rows(programs.finish())

    segments = raw["s"]["packets"] + raw["d"]["packets"]
    assert segments == 1 + 2 * RUNS
    size = raw["s"]["bytes"] + raw["d"]["bytes"]
    assert size == ip_size(SYN) + RUNS * (ip_size(first) + ip_size(second))
    assert programs.counters()["tracked"] == segments


def test_without_the_protection_it_fails() -> None:
    """Plain additions lose updates here, so the test above can fail."""
    with Replay(flags=UNPROTECTED) as programs:
        _repeat(programs, SYN, 1)

        on_all_cpus([hammer(programs, DATA), hammer(programs, DATA)])

        _, gate = programs.table, programs.slot(0)["side"][0]
        assert int(gate["bytes"]) < ip_size(SYN) + 2 * RUNS * ip_size(DATA)


@pytest.mark.parametrize("shot", [DATA, SYN, RST_BACK, FIN_BACK], ids=["data", "syn", "rst back", "fin back"])
@pytest.mark.parametrize("ends", [(RST,), (FIN, FIN_BACK)], ids=["by rst", "by fin"])
def test_a_flow_under_fire_ends_once_and_whole(
    programs: Replay, ends: tuple[bytes, ...], shot: bytes
) -> None:
    """Connections open and end on one CPU while the other sends to them: more data, or another start, or
    another end.

    Each is delivered once; each segment is in exactly one of them, or untracked; the bytes agree; no second
    connection of the tuple is left open behind the first.
    """
    rows: list[Raw] = []
    lives = 0
    over = threading.Event()

    def live() -> None:
        nonlocal lives
        while not over.is_set():
            for frame in (SYN, *ends):
                _repeat(programs, frame, 1)
            lives += 1
            if lives % 100 == 0:
                rows.extend(raw_of_rows(programs.table.ring.read()))

    def shoot() -> None:
        _repeat(programs, shot, RUNS)  # one call, which needs nothing of the interpreter until it is over
        over.set()

    on_all_cpus([live, shoot])

    rows.extend(raw_of_rows(programs.table.ring.read()))
    left_open = raw_of_rows(programs.finish())
    rows += left_open
    counters = programs.counters()
    sent = lives * (1 + len(ends)) + RUNS
    assert len(left_open) <= 1
    assert lives > 100
    assert len(rows) == counters["opened"] == counters["delivered"]
    assert counters["contended"] == counters["table_full"] == 0
    assert sum(raw["s"]["packets"] + raw["d"]["packets"] for raw in rows) == counters["tracked"]
    assert counters["tracked"] + counters["untracked"] == sent
    # Every frame here but DATA has the size of a bare header, so the bytes tell how many of each there are.
    bare = ip_size(SYN)
    hits = sum(raw["s"]["bytes"] + raw["d"]["bytes"] for raw in rows) - bare * counters["tracked"]
    if shot is DATA:
        assert len(rows) == lives
        own = lives * (1 + len(ends))
        assert hits == (counters["tracked"] - own) * (ip_size(DATA) - bare) > 0
    else:
        assert hits == 0


def test_every_cpu_opening_the_same_connection_opens_one(programs: Replay) -> None:
    """The same SYN on both CPUs at once: one connection, all SYNs in it."""
    for _ in range(100):
        on_all_cpus([hammer(programs, SYN, 101), hammer(programs, SYN, 101)])
        (raw,) = raw_of_rows(programs.finish())
        assert raw["s"]["packets"] == 202
        assert raw["s"]["bytes"] == 202 * ip_size(SYN)


FOUND = "\tif (!found)\n\t\treturn 0;\n"
SLOW_READER = FOUND + "\tfor (int i = 0; i < 400; i++)\n\t\tbpf_ktime_get_ns();\n"
"""Some ten microseconds between finding the hash's element and reading it, where an interrupt may be."""


def test_an_element_that_another_tuple_got_meanwhile_is_not_taken_for_its_own(tmp_path: Path) -> None:
    """The hash gives a deleted element to the next tuple at once. While one CPU reads what it found for the
    first tuple, the other ends that connection and opens one of the second: nothing of the first is
    counted there."""
    first, second = 1001, 1002
    sent = [frames.tcp(flags, sport=port) for port in (first, second) for flags in ("S", "R")]
    shot = frames.tcp("A", b"x" * 83, sport=first)
    rows: list[Raw] = []
    lives = 0
    over = threading.Event()
    source = changed_core(tmp_path, FOUND, SLOW_READER)
    with Replay(flags=(), max_connections=2, source=source) as programs:

        def live() -> None:
            nonlocal lives
            while not over.is_set():
                for frame in sent:
                    _repeat(programs, frame, 1)
                lives += 1
                if lives % 100 == 0:
                    rows.extend(raw_of_rows(programs.table.ring.read()))

        def shoot() -> None:
            _repeat(programs, shot, RUNS)
            over.set()

        on_all_cpus([live, shoot])
        rows.extend(raw_of_rows(programs.finish()))
        counters = programs.counters()

    others = [raw["s"]["packets"] for raw in rows if raw["src"][1] == second]
    assert lives > 100
    assert others == [2] * lives
    assert sum(raw["s"]["packets"] for raw in rows) == counters["tracked"]
