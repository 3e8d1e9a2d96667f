"""Whole sequences of frames through the XDP program in the kernel: `collector.inkernel`, for tests."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np

from collector import kernel
from collector.inkernel import CLOCK_IN_METADATA, InKernel
from collector.records import FLOW, Rows, joined
from collector.replay import Limits

DRAIN_EVERY = 1000


class Replay(InKernel):
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
        limits = Limits(
            max_connections=max_connections,
            tcp_establish_timeout=tcp_establish_timeout,
            tcp_inactivity_timeout=tcp_inactivity_timeout,
            tls_only=tls_only,
        )
        super().__init__(limits, ring_bytes=ring_bytes, flags=flags)

    def slot(self, number: int) -> np.void:
        """A slot of the table as it lies in the kernel, ended or not."""
        raw = kernel.lookup(self.table._slots_fd, number.to_bytes(4, sys.byteorder), FLOW.itemsize)
        flow: np.void = np.frombuffer(raw, dtype=FLOW)[0]
        return flow

    def run(self, packets: Iterable[tuple[int, bytes]]) -> Rows:
        """All the frames, then the shutdown: every connection, in the order of their ends."""
        found = []
        for i, (time_ns, frame) in enumerate(packets):
            self.send(time_ns, frame)
            if i % DRAIN_EVERY == 0:
                found.append(self.read())
        return joined([*found, self.finish()])
