"""Packets through the XDP program in the kernel, one by one, with the time that each carries.

The programs are compiled to take the time from the packet's metadata, so what they count does not depend on
the clock, and can be compared bit for bit. Nothing is attached; needs root.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from collector import kernel
from collector.drain import FlowTable, still_held
from collector.errors import KernelError
from collector.loader import Compiler, Loaded, compile_flags
from collector.records import Rows, SweepMode, joined
from collector.replay import Limits

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CLOCK_IN_METADATA", "FRAME_LEAST", "FRAME_MOST", "InKernel"]

CLOCK_IN_METADATA = "-DFLOWML_CLOCK_IN_METADATA"
FRAME_LEAST = 14
"""BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header."""
FRAME_MOST = 2048
"""Nor one longer than what is left of a page; the core looks no further than the headers anyway."""


class InKernel:
    """One flow table in the kernel, attached to nothing."""

    def __init__(
        self,
        limits: Limits,
        *,
        ring_bytes: int = 1 << 22,
        flags: Sequence[str] = (CLOCK_IN_METADATA,),
        source: Path | None = None,
    ) -> None:
        self.limits = limits
        settings = compile_flags(
            max_connections=limits.max_connections,
            ring_bytes=ring_bytes,
            tcp_establish_timeout=limits.tcp_establish_timeout,
            tcp_inactivity_timeout=limits.tcp_inactivity_timeout,
            tls_only=limits.tls_only,
            ip=limits.ip,
        )
        with Compiler(source) as compiler:
            self.loaded: Loaded = compiler.load([*settings, *flags], max_connections=limits.max_connections)
        self.table: FlowTable = self.loaded.table
        self.latest_ns = 0
        self._before = self.table.counters()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loaded.close_programs()
        self.table.close()

    def restart(self) -> None:
        """From here on it is as new: nothing is open, the counters begin at 0, so does time."""
        self.finish()
        self.latest_ns = 0
        self._before = self.table.counters()

    def counters(self) -> dict[str, int]:
        """The counters since the start."""
        return {name: value - self._before[name] for name, value in self.table.counters().items()}

    def send(self, time_ns: int, frame: bytes) -> None:
        """One frame comes in.

        Raises
        ------
        KernelError
            The program did not run, or did not pass it.
        """
        self.latest_ns = max(self.latest_ns, time_ns)
        try:
            answer = kernel.run_program(self.loaded.xdp_fd, frame=frame, time_ns=time_ns)
        except OSError as error:
            raise KernelError(f"the XDP program cannot be run on a packet: {error.strerror}") from error
        if answer != kernel.XDP_PASS:
            raise KernelError(f"the XDP program did not pass a packet, but answered {answer}")

    def read(self) -> Rows:
        """The flows that ended since it was last asked."""
        return self.table.ring.read()

    def sweep(self, time_ns: int) -> None:
        """Ends what has timed out by then."""
        self.table.sweep(SweepMode.TIMEOUT, time_ns)

    def finish(self) -> Rows:
        """Ends what is still open, at the latest time seen."""
        found = [self.read()]
        held = still_held(self.table.counters())
        while held:
            self.table.sweep(SweepMode.SHUTDOWN, self.latest_ns)
            found.append(self.read())
            before, held = held, still_held(self.table.counters())
            # Nothing else runs, so each sweep delivers what the ring has room for; a broken core may not.
            if held >= before:
                raise KernelError(f"{held} connections cannot be taken out of the table")
        return joined(found)
