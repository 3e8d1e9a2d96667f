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

__all__ = ["PER_CONNECTION", "Generator"]

PER_CONNECTION, CONCURRENT = 10, 1024  # generator.bpf.c
PAYLOAD = 20
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
BATCH = 32
_PLAN = struct.Struct("=QQQII")


class Generator:
    """Sends out of an interface of this process's namespace."""

    def __init__(self, iface: str) -> None:
        self._module = load("generator.bpf.c")
        self._program = self._module.load_func("generate", self._module.XDP).fd
        self._plans = self._module["plans"]
        self._ifindex = socket.if_nametoindex(iface)

    def open(self, connections: int) -> None:
        """Opens so many, of a SYN and its answer, and leaves them open; rounded up to whole turns."""
        turns = -(-connections // CONCURRENT)
        self._send(2 * turns * CONCURRENT, 0, of_connection=2)

    def send(self, segments: int, per_second: float = 0) -> float:
        """Sends so many, evenly in time, or as fast as it goes; seconds that it took."""
        return self._send(segments, round(1e9 / per_second) if per_second else 0, PER_CONNECTION)

    def _send(self, segments: int, interval_ns: int, of_connection: int) -> float:
        plan = _PLAN.pack(0, interval_ns, 0, self._ifindex, of_connection)
        self._plans[0] = self._plans.Leaf.from_buffer_copy(plan)
        # The addresses of a frame that is for somebody else: the stack behind the interface throws it away.
        frame = frames.tcp("A", bytes(PAYLOAD), dst_mac="02:00:00:00:00:ff")
        data = ctypes.create_string_buffer(frame, len(frame))
        attr = kernel._attr(
            "IIIIQQIIIIQQIII",
            *(self._program, 0, len(frame), 0, ctypes.addressof(data), 0, segments, 0, 0, 0, 0, 0),
            *(LIVE_FRAMES, 0, BATCH),
        )
        begin = time.perf_counter()
        kernel._bpf(kernel._PROG_TEST_RUN, attr)
        return time.perf_counter() - begin


def main() -> None:
    iface, segments, per_second = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with on_core(0):
        took = Generator(iface).send(segments, per_second)
    print(json.dumps({"segments": segments, "seconds": took}))


if __name__ == "__main__":
    main()
