"""What two CPUs do to a flow at the same moment, where that moment comes once: each trial is a new one.

Two processes send a frame each. A copy of the core waits at its entry for the next turn of the clock, which
both meet, and a moment more of random length, so that over the trials every order of their steps occurs.
Without the atomic operation that a test is about it fails nearly always, not in every run.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector import kernel
from tests import frames
from tests.compare import raw_of_rows
from tests.replay import Replay, changed_core

pytestmark = pytest.mark.kernel

START = 10**15
ENTRY = "int flowml_xdp(struct xdp_md *ctx)\n{\n"
MEETING = """\
	__u64 until = (bpf_ktime_get_ns() | 0x1fff) + (bpf_get_prandom_u32() & 0x%x);
	for (int i = 0; i < 500 && bpf_ktime_get_ns() < until; i++)
		;
"""
"""The clock's next multiple of 8 microseconds, and up to so many nanoseconds more."""

PARTNER = """
import mmap, os, sys
from collector import kernel
program, shared, cpu, trials, time_ns, step = map(int, sys.argv[1:7])
frame = bytes.fromhex(sys.argv[7])
os.sched_setaffinity(0, {cpu})
told, ready, done = 0, 1, 2
words = memoryview(mmap.mmap(shared, mmap.PAGESIZE)).cast("Q")
for trial in range(1, trials + 1):
    words[ready] = trial
    while words[told] != trial:
        pass
    kernel.run_program(program, frame=frame, time_ns=time_ns + step * trial)
    words[done] = trial
"""
TOLD, READY, DONE = 0, 1, 2


@contextmanager
def partner(
    programs: Replay, frame: bytes, trials: int, step: int = 0
) -> Iterator[Callable[[int, bytes, int], None]]:
    """A process on another CPU that sends the frame in each trial, at START + step * trial; in the body a
    function that has it do so, and meanwhile sends a frame of its own at a time of its own."""
    cpus = sorted(os.sched_getaffinity(0))
    program = programs.loaded.xdp_fd
    shared = os.memfd_create("trials")
    os.ftruncate(shared, mmap.PAGESIZE)
    words = memoryview(mmap.mmap(shared, mmap.PAGESIZE)).cast("Q")
    numbers = (program, shared, cpus[-1], trials, START, step)
    process = subprocess.Popen(
        [sys.executable, "-c", PARTNER, *map(str, numbers), frame.hex()], pass_fds=[program, shared]
    )

    def wait_for(word: int, trial: int) -> None:
        while words[word] != trial:
            if process.poll() not in (None, 0):
                raise AssertionError(f"the partner ended in trial {trial}")

    def meet(trial: int, own: bytes, time_ns: int) -> None:
        wait_for(READY, trial)
        words[TOLD] = trial
        kernel.run_program(program, frame=own, time_ns=time_ns)
        wait_for(DONE, trial)

    os.sched_setaffinity(0, {cpus[0]})
    try:
        yield meet
        process.wait(60)
    finally:
        os.sched_setaffinity(0, cpus)
        process.kill()
        process.wait()
        os.close(shared)


def meeting(folder: Path, spread: int) -> Replay:
    return Replay(source=changed_core(folder, ENTRY, ENTRY + MEETING % spread))


def test_of_two_times_the_later_one_stays(tmp_path: Path) -> None:
    """Whichever of two segments of one direction gets there last."""
    trials, step = 1000, 20
    data = frames.tcp("A")
    with meeting(tmp_path, 0x7F) as programs, partner(programs, data, trials, step) as meet:
        programs.send(START, frames.tcp("S"))
        for trial in range(1, trials + 1):
            others = START + step * trial
            own = others + (7 if trial % 2 else -7)
            meet(trial, data, own)
            assert programs.slot(0)["side"][0]["last_ns"] == max(own, others)


def test_two_fins_at_once_end_the_connection(tmp_path: Path) -> None:
    """One from each side: neither forgets the other's."""
    trials = 1000
    with meeting(tmp_path, 0x1FF) as programs, partner(programs, frames.answer("FA"), trials) as meet:
        for trial in range(1, trials + 1):
            programs.send(START, frames.tcp("S"))
            meet(trial, frames.tcp("FA"), START)
            assert [raw["reason"] for raw in raw_of_rows(programs.table.ring.read())] == ["fin"]


def test_of_two_first_ttls_one_is_the_first(tmp_path: Path) -> None:
    """The sum is that of both, whichever the differences are taken from."""
    trials = 2000
    with (
        meeting(tmp_path, 0x1FF) as programs,
        partner(programs, frames.answer("A", ttl=128), trials) as meet,
    ):
        for trial in range(1, trials + 1):
            programs.send(START, frames.tcp("S"))
            meet(trial, frames.answer("A", ttl=64), START)
            programs.send(START, frames.tcp("R"))
            (raw,) = raw_of_rows(programs.table.ring.read())
            assert (raw["d"]["packets"], raw["d"]["ttl_sum"]) == (2, 64 + 128)
