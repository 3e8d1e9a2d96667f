"""What BPF programs take a run while they are at work, as the kernel counts it (`bpf_stats`)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from collector import kernel
from tests.bench import helpers

__all__ = ["counting", "ns_a_run"]

_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _ENABLE_STATS = 11, 13, 32
_RUN_TIME = 0  # BPF_STATS_RUN_TIME
_NAME = slice(64, 80)  # struct bpf_prog_info
_RUN_TIME_AND_COUNT_AT = 192


@contextmanager
def counting() -> Iterator[None]:
    """The kernel counts in the body, which makes every run some 20 ns longer."""
    stats = kernel._bpf(_ENABLE_STATS, kernel._attr("I", _RUN_TIME))
    try:
        yield
    finally:
        os.close(stats)


def ns_a_run(name: str) -> float:
    """Nanoseconds, of what was counted of the program of this name that was loaded last; NaN if nothing."""
    found = float("nan")
    for info in _programs():
        if info[_NAME].rstrip(b"\0").decode() == name:
            nanoseconds, runs = struct.unpack_from("=QQ", info, _RUN_TIME_AND_COUNT_AT)
            found = nanoseconds / runs if runs else float("nan")
    return found


def _programs() -> Iterator[bytes]:
    """What the kernel says of each program, in the order in which they were loaded."""
    at = 0
    while True:
        attr = kernel._attr("III", at, 0, 0)
        try:
            kernel._bpf(_PROG_GET_NEXT_ID, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        (at,) = struct.unpack_from("=I", attr.raw, 4)
        try:
            fd = kernel._bpf(_PROG_GET_FD_BY_ID, kernel._attr("III", at, 0, 0))
        except OSError as error:
            if error.errno == errno.ENOENT:  # it is gone meanwhile
                continue
            raise
        try:
            yield helpers.info(fd)
        finally:
            os.close(fd)
