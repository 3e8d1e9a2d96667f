"""How long from the segment that ends a connection to its line in the file.

    python -m tests.bench.latency MODEL.joblib [CONNECTIONS [PER_SECOND]]

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
import threading
import time
from pathlib import Path

import numpy as np

from tests import frames
from tests.lab import veth_pair
from tests.tool import flowml

CLONE_NEWNET = 0x40000000
POLL_S = 20e-6


def send(namespace: str, iface: str, count: int, per_second: float, sent: list[int]) -> None:
    """Opens and resets connections, evenly in time; notes when each RST was sent."""
    with open(f"/run/netns/{namespace}") as target:  # noqa: PTH123
        os.setns(target.fileno(), CLONE_NEWNET)  # type: ignore[attr-defined,unused-ignore]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((iface, 0))
        begin = time.monotonic()
        for number in range(count):
            port = 1024 + number
            wire.send(frames.tcp("S", sport=port, seq=1))
            wire.send(frames.tcp("PA", frames.CLIENT_HELLO, sport=port, seq=2))
            last = frames.tcp("R", sport=port, seq=99)
            time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
            sent.append(time.monotonic_ns())
            wire.send(last)


def measure(model: Path, count: int, per_second: float) -> dict[str, object]:
    sent: list[int] = []
    seen: list[int] = []
    options = ("--model", model, "--direction", "ingress")
    with veth_pair() as wire, flowml(wire.right, "attach", wire.right.iface, *options) as running:
        sender = threading.Thread(
            target=send, args=(wire.left.ns, wire.left.iface, count, per_second, sent)
        )
        with running.outfile.open("rb", buffering=0) as lines:
            sender.start()
            while len(seen) < count:
                new = lines.read(1 << 16).count(b"\n")
                seen.extend([time.monotonic_ns()] * new)
                if not new:
                    time.sleep(POLL_S)
        sender.join()
        running.stop()
    took_ms = (np.array(seen) - np.array(sent)) / 1e6
    p50, p90, p99 = np.percentile(took_ms, [50, 90, 99]).round(3).tolist()
    return {
        "connections": count,
        "per_second": per_second,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": round(float(took_ms.max()), 3),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
    }


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    per_second = float(sys.argv[3]) if len(sys.argv) > 3 else 100.0
    print(json.dumps(measure(Path(sys.argv[1]), count, per_second)))


if __name__ == "__main__":
    main()
