"""How long from the segment that ends a connection to its line in the file.

    python -m tests.bench.latency MODEL.joblib [CONNECTIONS [PER_SECOND [OPEN]]]

OPEN connections, rounded up to a multiple of 1024, stay open meanwhile, and are swept.

Frames go into one end of a veth pair through a packet socket; `flowml attach` runs at the other. The clock
starts before the frame is handed to the kernel, and stops when a reader that polls the file sees the line.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests import frames
from tests.bench.generator import Generator
from tests.lab import veth_pair
from tests.tool import flowml

POLL_S = 20e-6
ROOM = 4096
"""Slots for what comes beside the connections that stay open."""
PATIENCE_S = 120
SEND = "--send"


def send(iface: str, count: int, per_second: float, idle: int) -> None:
    """Opens and resets connections, evenly in time; prints when each RST was sent."""
    sent = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((iface, 0))
        if idle:
            Generator().open(iface, idle)
        begin = time.monotonic()
        for number in range(count):
            port = 1024 + number
            wire.send(frames.tcp("S", sport=port, seq=1))
            wire.send(frames.tcp("PA", frames.CLIENT_HELLO, sport=port, seq=2))
            last = frames.tcp("R", sport=port, seq=99)
            time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
            sent.append(time.monotonic_ns())
            wire.send(last)
    print(json.dumps(sent))


def measure(
    model: Path, count: int, per_second: float, idle: int, options: Sequence[str] = ()
) -> dict[str, object]:
    """One run; latencies in milliseconds. `options` are further ones of `flowml attach`."""
    seen: list[int] = []
    room = str(max(100_000, idle + ROOM))
    options = ("--model", str(model), "--direction", "ingress", "--max-connections", room, *options)
    with (
        tempfile.TemporaryDirectory() as folder,
        veth_pair() as wire,
        flowml(wire.right, "attach", wire.right.iface, *options) as running,
        running.outfile.open("rb", buffering=0) as lines,
    ):
        sent = Path(folder) / "sent"
        itself = [sys.executable, "-m", "tests.bench.latency"]
        sender = wire.left.popen(
            [*itself, SEND, wire.left.iface, str(count), str(per_second), str(idle)], out=sent
        )
        give_up = time.monotonic() + PATIENCE_S
        while len(seen) < count and time.monotonic() < give_up:
            new = lines.read(1 << 16).count(b"\n")
            seen.extend([time.monotonic_ns()] * new)
            if not new:
                time.sleep(POLL_S)
        assert sender.wait(PATIENCE_S) == 0
        running.stop()
        assert len(seen) == count, f"{len(seen)} lines of {count}: {running.stderr()}"
        took_ms = (np.array(seen) - np.array(json.loads(sent.read_text()))) / 1e6
    p50, p90, p99 = np.percentile(took_ms, [50, 90, 99]).round(3).tolist()
    return {
        "connections": count,
        "per_second": per_second,
        "open": idle,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": round(float(took_ms.max()), 3),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
    }


def main() -> None:
    if sys.argv[1] == SEND:
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
        return
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    per_second = float(sys.argv[3]) if len(sys.argv) > 3 else 100.0
    idle = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    print(json.dumps(measure(Path(sys.argv[1]), count, per_second, idle)))


if __name__ == "__main__":
    main()
