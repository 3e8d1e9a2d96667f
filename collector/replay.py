"""Finished flows out of captures, as the same rows as out of the kernel: the C core on the CPU.

No root. bpf/replay.c reads the file with libpcap and keeps the table; here are its settings, its calls, and
what it has to say about a capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from collector import records
from collector._replay import ffi as _ffi
from collector._replay import lib as _core
from collector.records import COUNTERS, FLOW, IP_VERSIONS, Rows

__all__ = ["CLOCK_OFFSET_NS", "Account", "Limits", "Packet", "Replay"]

CLOCK_OFFSET_NS = -1
"""What to add to the times of the rows to get nanoseconds since 1970: to the core 0 means "not seen"."""

_FLOWS_AT_ONCE = 8192
_PACKETS_AT_ONCE = 1 << 16
_MS = 1_000_000


class Limits(NamedTuple):
    """What decides which connections there are, as in the kernel. Timeouts in milliseconds."""

    max_connections: int
    tcp_establish_timeout: int
    tcp_inactivity_timeout: int
    tls_only: bool
    ip: str = "4"
    """Which versions of IP are looked at: 4, 6 or both."""


class Account(NamedTuple):
    """What became of a capture's packets and connections, and what was odd about them."""

    counters: dict[str, int]
    packets: int
    backward: int
    """Packets with an earlier time than one before them."""
    impossible: int
    """Packets with a time before 1970 or after 2100."""
    hellos_cut: int
    """Segments that were captured without the bytes that tell a ClientHello."""


class Packet(NamedTuple):
    """A packet as the core saw it."""

    time_ns: int
    """In the clock of the rows."""
    swept: bool
    """Whether the table was full, and was swept at this time, before the packet."""
    frame: bytes
    link_len: int
    """Bytes of the link header; 0 if it is cut short, or if the link has none."""
    ethertype: int
    source_mac: bytes

    def on_ethernet(self) -> bytes:
        """The frame as an Ethernet interface would carry it; empty if its link header is cut short."""
        if not self.link_len:
            return b""
        return bytes(6) + self.source_mac + self.ethertype.to_bytes(2, "big") + self.frame[self.link_len :]


class Replay:
    """One capture on its way through the table of flows.

    Parameters
    ----------
    fd
        Where the capture is read from: a file or a pipe. It stays the caller's.
    stop_fd
        Readable once reading is to end; -1: never.
    head
        What was read of it already.

    Raises
    ------
    MemoryError
        There is none for a table of that many connections.
    """

    def __init__(self, fd: int, limits: Limits, stop_fd: int = -1, head: bytes = b"") -> None:
        _check_layout()
        settings = _ffi.new(
            "struct replay_settings *",
            {
                "max_connections": limits.max_connections,
                "tls_only": limits.tls_only,
                "ip": IP_VERSIONS[limits.ip],
                "establish_timeout_ns": limits.tcp_establish_timeout * _MS,
                "inactivity_timeout_ns": limits.tcp_inactivity_timeout * _MS,
            },
        )
        self._core = _core.replay_open(fd, stop_fd, head, len(head), settings)
        if not self._core:
            raise MemoryError
        self._status = _core.replay_status(self._core)
        self._rows = np.empty(_FLOWS_AT_ONCE, FLOW)
        self._room = _ffi.cast("struct flow *", _ffi.from_buffer(self._rows))

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _core.replay_close(self._core)
        self._core = self._status = None

    def read(self, packets: int = _PACKETS_AT_ONCE) -> Rows:
        """The flows that the next so many packets end, in the order of their ends, shape (n_flows,).

        At the end of the capture, or where it cannot be read on, what is still open is ended at the latest
        time seen.
        """
        found = _core.replay_read(self._core, self._room, len(self._rows), packets)
        return records.raw(self._rows[:found]).copy().view(FLOW)

    def batches(self) -> Iterator[Rows]:
        """All the flows of the capture, batch by batch, also empty ones: see `read`."""
        while not self.done:
            yield self.read()

    def packets(self, ended: list[Rows]) -> Iterator[Packet]:
        """Every packet, once it is accounted; what ends goes into `ended`, to the last flow."""
        status = self._status
        while not self.done:
            before = status.packets
            ended.append(self.read(1))
            if status.packets > before:
                yield Packet(
                    time_ns=status.time_ns,
                    swept=bool(status.swept_ns),
                    frame=_ffi.buffer(status.frame, status.frame_len)[:],
                    link_len=status.link_len,
                    ethertype=status.ethertype,
                    source_mac=bytes(status.source_mac),
                )

    @property
    def done(self) -> bool:
        """Whether every packet was read and every flow handed over."""
        return bool(self._status.state == _core.REPLAY_DONE)

    @property
    def stopped(self) -> bool:
        """Whether reading ended because it was to."""
        return bool(self._status.stopped)

    @property
    def trouble(self) -> str:
        """Why reading ended before the capture did; empty if it did not."""
        text: str = _ffi.string(_core.replay_trouble(self._core)).decode(errors="replace")
        return text

    @property
    def bytes_taken(self) -> int:
        """How far reading has come in the file, bytes."""
        return int(self._status.bytes_taken)

    def account(self) -> Account:
        """The counters until now."""
        values = _ffi.unpack(_core.replay_counters(self._core), len(COUNTERS.names or ()))
        status = self._status
        return Account(
            counters=dict(zip(COUNTERS.names or (), values, strict=True)),
            packets=status.packets,
            backward=status.backward,
            impossible=status.impossible,
            hellos_cut=status.hellos_cut,
        )


@cache
def _check_layout() -> None:
    """What was built is what records.py says, or AbiError."""
    names = _ffi.string(_core.replay_counter_names()).decode().split()
    records.check_layout(
        {
            "flow": _layout(_ffi.typeof("struct flow")),
            "counters": {name: [8 * place, 8] for place, name in enumerate(names)},
        }
    )


def _layout(ctype: Any, prefix: str = "") -> dict[str, list[int]]:
    """Every leaf field that the compiler laid out: dotted name to [offset, size] in bytes."""
    found: dict[str, list[int]] = {}
    for name, field in ctype.fields:
        kind, count = field.type, 1
        if kind.kind == "array" and kind.item.kind == "struct":
            kind, count = kind.item, kind.length
        if kind.kind != "struct":
            found[prefix + name] = [field.offset, _ffi.sizeof(kind)]
            continue
        for i in range(count):
            part = f"{prefix}{name}." if field.type is kind else f"{prefix}{name}[{i}]."
            for key, (at, size) in _layout(kind, part).items():
                found[key] = [field.offset + i * _ffi.sizeof(kind) + at, size]
    return found
