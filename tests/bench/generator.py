"""Segments into one end of a wire, at a given rate and faster than a packet socket takes them.

    python -m tests.bench.generator IFACE SEGMENTS PER_SECOND

Runs in the namespace of the interface, on the first core. Ten segments a connection, both directions in it,
1024 connections at a time (`bpf/generator.bpf.c`). The other end of a veth takes such frames only while it
has an XDP program or GRO on. Prints one JSON object: what was sent, and how long it took.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import sys
import time

from collector import kernel
from tests import frames
from tests.bench.rounds import on_core
from tests.bench.walking import load

__all__ = ["CONCURRENT", "PER_CONNECTION", "WHOLE", "Generator"]

PER_CONNECTION, CONCURRENT = 10, 1024  # generator.bpf.c
WHOLE = CONCURRENT * PER_CONNECTION
"""Segments with which every connection has ended."""
PAYLOAD = 20
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
BATCH, LARGE_BATCH = 32, 128
"""Frames that go out together. Large ones cost the sender less, and are no bursts at a high rate."""
SOON_NS = 1000
_PLAN = struct.Struct("=QQQII")


class Generator:
    """Sends out of interfaces of the namespace that the thread is in."""

    def __init__(self) -> None:
        self._module = load("generator.bpf.c")
        self._program = self._module.load_func("generate", self._module.XDP).fd
        self._plans = self._module["plans"]

    def open(self, iface: str, connections: int) -> None:
        """Opens so many, of a SYN and its answer, and leaves them open; rounded up to whole turns."""
        turns = -(-connections // CONCURRENT)
        self._send(iface, 2 * turns * CONCURRENT, 0, of_connection=2)

    def send(self, iface: str, segments: int, per_second: float = 0) -> float:
        """Sends so many, evenly in time, or as fast as it goes; seconds that it took."""
        return self._send(iface, segments, round(1e9 / per_second) if per_second else 0, PER_CONNECTION)

    def _send(self, iface: str, segments: int, interval_ns: int, of_connection: int) -> float:
        plan = _PLAN.pack(0, interval_ns, 0, socket.if_nametoindex(iface), of_connection)
        self._plans[0] = self._plans.Leaf.from_buffer_copy(plan)
        # The addresses of a frame that is for somebody else: the stack behind the interface throws it away.
        frame = frames.tcp("A", bytes(PAYLOAD), dst_mac="02:00:00:00:00:ff")
        data = ctypes.create_string_buffer(frame, len(frame))
        attr = kernel._attr(
            "IIIIQQIIIIQQIII",
            *(self._program, 0, len(frame), 0, ctypes.addressof(data), 0, segments, 0, 0, 0, 0, 0),
            *(LIVE_FRAMES, 0, LARGE_BATCH if interval_ns < SOON_NS else BATCH),
        )
        begin = time.perf_counter()
        kernel._bpf(kernel._PROG_TEST_RUN, attr)
        return time.perf_counter() - begin


def main() -> None:
    iface, segments, per_second = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with on_core(0):
        took = Generator().send(iface, segments, per_second)
    print(json.dumps({"segments": segments, "seconds": took}))


if __name__ == "__main__":
    main()
