"""Packets through the XDP program in the kernel, one by one, with the time that each carries.

The programs are compiled to take the time from the packet's metadata, so what they count does not depend on
the clock, and can be compared bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import TracebackType

import numpy as np

from collector import kernel
from collector.drain import FlowTable, still_held
from collector.loader import Compiler, Loaded, compile_flags
from collector.records import FLOW, Rows, SweepMode, joined

CLOCK_IN_METADATA = "-DFLOWML_CLOCK_IN_METADATA"
DRAIN_EVERY = 1000


class Replay:
    """One flow table, attached to nothing."""

    def __init__(
        self,
        *,
        max_connections: int = 4096,
        ring_bytes: int = 1 << 20,
        tcp_establish_timeout: int = 5000,
        tcp_inactivity_timeout: int = 300_000,
        tls_only: bool = False,
        flags: Sequence[str] = (CLOCK_IN_METADATA,),
    ) -> None:
        settings = compile_flags(
            max_connections=max_connections,
            ring_bytes=ring_bytes,
            tcp_establish_timeout=tcp_establish_timeout,
            tcp_inactivity_timeout=tcp_inactivity_timeout,
            tls_only=tls_only,
        )
        with Compiler() as compiler:
            self.loaded: Loaded = compiler.load([*settings, *flags], max_connections=max_connections)
        self.table: FlowTable = self.loaded.table
        self.latest_ns = 0
        self._before = self.table.counters()

    def restart(self) -> None:
        """From here on it is as new: nothing is open, the counters begin at 0, so does time."""
        self.finish()
        self.latest_ns = 0
        self._before = self.table.counters()

    def counters(self) -> dict[str, int]:
        """The counters since the start."""
        return {name: value - self._before[name] for name, value in self.table.counters().items()}

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loaded.close_programs()
        self.table.close()

    def slot(self, number: int) -> np.void:
        """A slot of the table as it lies in the kernel, ended or not."""
        raw = kernel.lookup(self.table._slots_fd, number.to_bytes(4, sys.byteorder), FLOW.itemsize)
        flow: np.void = np.frombuffer(raw, dtype=FLOW)[0]
        return flow

    def send(self, time_ns: int, frame: bytes) -> None:
        """One frame comes in."""
        self.latest_ns = max(self.latest_ns, time_ns)
        answer = kernel.run_program(self.loaded.ingress_fd, frame=frame, time_ns=time_ns)
        assert answer == kernel.XDP_PASS

    def run(self, packets: Iterable[tuple[int, bytes]]) -> Rows:
        """All the frames, then the shutdown: every connection, in the order of their ends."""
        found = []
        for i, (time_ns, frame) in enumerate(packets):
            self.send(time_ns, frame)
            if i % DRAIN_EVERY == 0:
                found.append(self.table.ring.read())
        return joined([*found, self.finish()])

    def finish(self) -> Rows:
        """Ends what is still open, at the latest time seen."""
        found = [self.table.ring.read()]
        held = still_held(self.table.counters())
        while held:
            self.table.sweep(SweepMode.SHUTDOWN, self.latest_ns)
            found.append(self.table.ring.read())
            before, held = held, still_held(self.table.counters())
            # Nothing else runs, so each sweep delivers what the ring has room for; a broken core may not.
            assert held < before, f"{held} connections cannot be taken out of the table"
        return joined(found)
