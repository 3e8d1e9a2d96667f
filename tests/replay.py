"""Whole sequences of frames through the XDP program in the kernel: `collector.inkernel`, for tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from collector import kernel
from collector.folders import bpf_folder
from collector.inkernel import CLOCK_IN_METADATA, InKernel
from collector.records import FLOW, Rows, joined
from collector.replay import Limits

DRAIN_EVERY = 1000


def changed_core(folder: Path, before: str, after: str, *, file: str = "flowml.bpf.c") -> Path:
    """A copy of the C core with one thing changed in one of its files; the folder that it lies in."""
    source = folder / "bpf"
    shutil.copytree(bpf_folder(), source)
    text = (source / file).read_text()
    assert before in text
    (source / file).write_text(text.replace(before, after))
    return source


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
        ip: str = "4",
        flags: Sequence[str] = (CLOCK_IN_METADATA,),
        source: Path | None = None,
    ) -> None:
        limits = Limits(
            max_connections=max_connections,
            tcp_establish_timeout=tcp_establish_timeout,
            tcp_inactivity_timeout=tcp_inactivity_timeout,
            tls_only=tls_only,
            ip=ip,
        )
        super().__init__(limits, ring_bytes=ring_bytes, flags=flags, source=source)

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
