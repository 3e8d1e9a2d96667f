"""The time of day of a connection: clocks that are set, machines that sleep."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from collector.clock import WallClock
from collector.records import FLOW, Rows

S = 1_000_000_000
NOON = 1_700_000_000 * S


@dataclass
class Machine:
    """Its clocks, nanoseconds."""

    monotonic: int = 1000 * S
    boottime: int = 1000 * S
    realtime: int = NOON

    def read(self, clock: int) -> int:
        return {
            time.CLOCK_MONOTONIC: self.monotonic,
            time.CLOCK_BOOTTIME: self.boottime,
            time.CLOCK_REALTIME: self.realtime,
        }[clock]

    def run(self, seconds: int) -> None:
        self.monotonic += seconds * S
        self.sleep(seconds)

    def sleep(self, seconds: int) -> None:
        self.boottime += seconds * S
        self.realtime += seconds * S


def rows(*start_ns: int) -> Rows:
    found = np.zeros(len(start_ns), FLOW)
    found["side"][:, 0]["first_ns"] = start_ns
    return found


def starts(clock: WallClock, *start_ns: int) -> list[int]:
    """When connections began, seconds since noon."""
    return [
        (int(row["side"][0]["first_ns"]) + offset - NOON) // S
        for offset, part in clock.parts(rows(*start_ns))
        for row in part
    ]


def test_a_connection_began_when_it_began() -> None:
    """Whenever it is written."""
    machine = Machine()
    clock = WallClock(machine.read)
    began = machine.monotonic
    machine.run(10)
    assert starts(clock, began, machine.monotonic) == [0, 10]
    assert len(list(clock.parts(rows(began, machine.monotonic)))) == 1


def test_a_clock_that_is_set_is_right_from_then_on() -> None:
    """A gateway without a clock of its own learns the time an hour after it began to count."""
    machine = Machine()
    clock = WallClock(machine.read)
    began = machine.monotonic
    machine.run(10)
    machine.realtime += 3600 * S
    assert starts(clock, began, machine.monotonic) == [3600, 3610]
    machine.realtime -= 7200 * S
    assert starts(clock, began) == [-3600]


def test_a_sleep_does_not_move_what_began_before_it() -> None:
    """Two sleeps; connections from before, between and after them, in any order, some still in the ring."""
    machine = Machine()
    clock = WallClock(machine.read)
    began = []
    for _ in range(2):
        began.append(machine.monotonic)
        machine.run(10)
        clock.look()
        machine.sleep(1000)
        machine.run(1)
        clock.look()
    began.append(machine.monotonic)
    assert starts(clock, *began) == [0, 1011, 2022]
    assert starts(clock, *reversed(began)) == [2022, 1011, 0]


def test_of_many_sleeps_the_latest_are_remembered() -> None:
    """A laptop that is never switched off: memory stays bounded, and what began lately is exact."""
    machine = Machine()
    clock = WallClock(machine.read)
    for _ in range(1000):
        machine.run(10)
        clock.look()
        machine.sleep(100)
        clock.look()
    began = machine.monotonic
    machine.run(1)
    clock.look()
    machine.sleep(5)
    assert starts(clock, began) == [110_000]
    assert len(clock._since_ns) <= 66


def test_the_machine_that_this_runs_on_agrees() -> None:
    """Its own three clocks: now is now."""
    clock = WallClock()
    ((offset, _),) = clock.parts(rows(time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
    assert abs(offset - (time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC))) < S
