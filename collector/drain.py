"""Finished flows out of the kernel, as numpy rows: the ring, the sweep, the counters.

The ring is mapped and viewed with a structured dtype; the sweep is a program that user space has run over
the slots (flowml.bpf.c). No Python runs per flow, and after the descriptors are open nothing here needs
root.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector import kernel
from collector.errors import KernelError
from collector.records import COUNTERS, FLOW, SWEEP, Rows, SweepMode

__all__ = ["FlowTable", "Ring", "still_held"]

# <linux/bpf.h>: what stands before each record, and the bits in its length.
_HEADER = np.dtype([("length", "<u4"), ("page_offset", "<u4")])
_SWEEP_DONE = 0  # flow.h
_BUSY = np.uint32(1 << 31)
_RECORD = np.dtype([("header", _HEADER), ("flow", FLOW)])


def _flows(found: npt.NDArray[Any]) -> Rows:
    """A copy of the flows without their headers: of words, because numpy copies structures one by one."""
    words = found.view("<u8").reshape(len(found), _RECORD.itemsize // 8)
    return words[:, _HEADER.itemsize // 8 :].copy().reshape(-1).view(FLOW)


class Ring:
    """The BPF ring buffer of finished flows, as its only consumer.

    Layout (Documentation/bpf/ringbuf.rst): a page with the consumer's position, which is ours to write; a
    page with the producers' position; then the data, mapped twice in a row, so that what wraps around
    still lies in one piece. All records have one size.
    """

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self.fd = fd
        self.size = size
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_map, dtype="<u8", count=1)
        self._producer = np.frombuffer(self._producer_map, dtype="<u8", count=1)
        self._data = np.frombuffer(self._producer_map, dtype=np.uint8, offset=page)

    @property
    def room(self) -> int:
        """Flows that it holds when it is full."""
        return self.size // _RECORD.itemsize

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it, and nothing is being put into it."""
        return bool(self._consumer[0] == self._producer[0])

    @property
    def is_full(self) -> bool:
        """Whether another record would find no room."""
        return int(self._producer[0] - self._consumer[0]) > self.size - _RECORD.itemsize

    def read(self, most: int | None = None) -> Rows:
        """Takes what is there, or `most` of it: shape (n_flows,), copied once, in the order of their ends."""
        begin, end = int(self._consumer[0]), int(self._producer[0])
        if begin == end:
            return np.empty(0, FLOW)
        at, waiting = begin & (self.size - 1), (end - begin) // _RECORD.itemsize
        waiting = waiting if most is None else min(waiting, most)
        found = self._data[at : at + waiting * _RECORD.itemsize].view(_RECORD)
        busy = np.flatnonzero(found["header"]["length"] & _BUSY)
        if len(busy):  # reserved by a program that is still copying: it and what follows come next time
            found = found[: busy[0]]
        rows = _flows(found)
        self._consumer[0] = begin + len(rows) * _RECORD.itemsize
        return rows

    @property
    def waiting(self) -> int:
        """Bytes that are in it now; more than 0 only if the collector is behind."""
        return max(0, int(self._producer[0]) - int(self._consumer[0]))

    def close(self) -> None:
        del self._consumer, self._producer, self._data
        self._consumer_map.close()
        self._producer_map.close()
        os.close(self.fd)


class FlowTable:
    """One flow table in the kernel, through its open descriptors."""

    def __init__(
        self,
        *,
        sweep_fd: int,
        slots_fd: int,
        ring_fd: int,
        counters_fd: int,
        sweeps_fd: int,
        max_connections: int,
    ) -> None:
        self.max_connections = max_connections
        self.ring = Ring(ring_fd, _ring_size(ring_fd))
        self._sweep_fd, self._slots_fd, self._counters_fd = sweep_fd, slots_fd, counters_fd
        self._sweeps_fd = sweeps_fd
        self._sweeps_map = mmap.mmap(sweeps_fd, mmap.PAGESIZE)
        self._sweep = np.frombuffer(self._sweeps_map, dtype=SWEEP, count=1)
        self._cpus = _possible_cpus()

    def fill(self) -> None:
        """Puts every slot on the stack of free ones. Once, before anything is attached."""
        self._run(SweepMode.FILL, self.max_connections, None)

    def sweep(self, mode: SweepMode, time_ns: int | None = None) -> None:
        """Visits every slot that was ever used: ends what timed out, delivers what is parked.

        One system call, however many slots. `time_ns` is for programs compiled to be told the time.
        """
        self._run(mode, int(self._sweep["high_water"][0]), time_ns)

    def _run(self, mode: SweepMode, slots: int, time_ns: int | None) -> None:
        self._sweep["mode"] = mode
        self._sweep["next"] = 0
        time_of = None if time_ns is None else {"tstamp": time_ns}
        while (done := int(self._sweep["next"][0])) < slots:
            try:
                answer = kernel.run_program(self._sweep_fd, repeat=slots - done, skb=time_of)
            except OSError as error:
                if error.errno == errno.EINTR:  # a signal: its handler has run, and the sweep goes on
                    continue
                raise KernelError(f"the sweep of the flow table was refused: {error.strerror}") from error
            if answer != _SWEEP_DONE:
                raise KernelError(f"the sweep of the flow table failed at slot {done}")

    def counters(self) -> dict[str, int]:
        """Every counter by name, summed over the CPUs."""
        raw = kernel.lookup(self._counters_fd, bytes(4), self._cpus * COUNTERS.itemsize)
        per_cpu: npt.NDArray[Any] = np.frombuffer(raw, dtype=COUNTERS)
        return {name: int(per_cpu[name].sum()) for name in COUNTERS.names or ()}

    @property
    def probe_fd(self) -> int:
        """A map that is read for as long as the table is: what tells whether it still may be."""
        return self._counters_fd

    def close(self) -> None:
        self.ring.close()
        del self._sweep
        self._sweeps_map.close()
        for fd in (self._sweep_fd, self._slots_fd, self._counters_fd, self._sweeps_fd):
            os.close(fd)


def still_held(counters: dict[str, int]) -> int:
    """Connections that the table still holds: running ones, and ended ones that found the ring full."""
    return counters["opened"] - counters["delivered"] - counters["filtered"]


def _ring_size(fd: int) -> int:
    """`max_entries` of the ring, from the kernel: bytes."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "max_entries":
            return int(value)
    raise KernelError(f"descriptor {fd} is not a BPF map")


def _possible_cpus() -> int:
    """A per-CPU map has a value for every CPU that could ever be there."""
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(possible.split(",")[-1].split("-")[-1]) + 1
