"""What processes that were started together use of the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.lab import wait_for

__all__ = ["cpu_ns", "members", "wait_until_idle"]

IDLE_LOOKS = 10
"""Looks, every 20 ms; the unit of CPU time is a tick, 10 ms."""


def members(group: int) -> list[int]:
    """The processes of a process group."""
    return [pid for pid, fields in _stats() if int(fields[2]) == group]


def cpu_ns(group: int) -> int:
    """CPU time of the threads of a process group, nanoseconds."""
    files = (file for pid in members(group) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files)


def wait_until_idle(group: int) -> None:
    """Until it has neither used nor wanted a CPU for a moment: it has worked off what was buffered."""
    seen: list[int] = []

    def idle() -> bool:
        stats = [fields for _, fields in _stats() if int(fields[2]) == group]
        if any(fields[0] == "R" for fields in stats):
            seen.clear()
        seen.append(sum(int(fields[11]) + int(fields[12]) for fields in stats))
        return len(seen) > IDLE_LOOKS and seen[-IDLE_LOOKS] == seen[-1]

    wait_for(idle, "the tool to be idle", timeout=120)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every process, and what its `stat` holds from the state on."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
