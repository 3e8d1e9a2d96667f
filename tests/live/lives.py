"""Devices that a model can tell apart, on a wire: their connections, and training data of them."""

from __future__ import annotations

import random
from pathlib import Path

from tests import frames, lab
from tests.lab import Pair, wait_for
from tests.tool import flowml

DEVICES = {"02:00:00:00:00:0a": 100, "02:00:00:00:00:0b": 300, "02:00:00:00:00:0c": 700}
"""MAC to the size of what it sends."""

CAPTURE = ("--direction", "ingress")


def lives(count: int, seed: int) -> list[bytes]:
    """`count` TLS connections of each device, with its habit and some noise, as a mirror port shows them."""
    draw = random.Random(seed)
    sent: list[bytes] = []
    for number in range(count):
        for index, (mac, size) in enumerate(DEVICES.items()):
            port = 1024 + seed * 10_000 + number * len(DEVICES) + index
            ours = {"sport": port, "src_mac": mac}
            back = {
                "src": frames.SERVER[0],
                "sport": frames.SERVER[1],
                "dst": frames.CLIENT[0],
                "dport": port,
                "src_mac": frames.SERVER_MAC,
            }
            hello = frames.CLIENT_HELLO + bytes(size + draw.randrange(40))
            sent.append(frames.tcp("S", seq=1, **ours))  # type: ignore[arg-type]
            sent.append(frames.tcp("SA", **back))  # type: ignore[arg-type]
            sent.append(frames.tcp("PA", hello, seq=2, **ours))  # type: ignore[arg-type]
            sent.append(frames.tcp("FA", **back))  # type: ignore[arg-type]
            sent.append(frames.tcp("FA", **ours))  # type: ignore[arg-type]
    return sent


def replay(wire: Pair, packets: list[bytes], folder: Path) -> None:
    path = folder / "lives.pcap"
    path.write_bytes(frames.pcap([(1 + i, frame) for i, frame in enumerate(packets)]))
    lab.replay(wire, path, len(packets), ["--pps", "5000"])


def collected(wire: Pair, data: Path, count: int) -> Path:
    """Training data of `count` connections of each device, as `flowml collect` writes it."""
    options = (*CAPTURE, "--outfile", data)
    with flowml(wire.right, "collect", wire.right.iface, *options, own_outfile=True) as running:
        replay(wire, lives(count, seed=1), data.parent)
        wanted = count * len(DEVICES)
        wait_for(lambda: len(data.read_bytes().splitlines()) == wanted, "the training data")
        assert running.stop() == 0
    return data
