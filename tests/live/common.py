"""What the live tests of a run's course have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests import frames
from tests.lab import Pair, replay

CAPTURE = ("--direction", "both", "--filter", "tcp")


def send(wire: Pair, packets: list[bytes], folder: Path) -> None:
    """Frames into the left end, all at once; when it answers they have been counted at the right one."""
    path = folder / "frames.pcap"
    path.write_bytes(frames.pcap([(1 + i, frame) for i, frame in enumerate(packets)]))
    replay(wire, path, len(packets))


def connection(number: int) -> list[bytes]:
    """A connection that ends by RST."""
    return [frames.tcp(flags, sport=1024 + number) for flags in ("S", "A", "R")]


def connections(numbers: Iterable[int]) -> list[bytes]:
    """Several of them, one after the other."""
    return [frame for number in numbers for frame in connection(number)]


def is_attached(wire: Pair) -> bool:
    """Whether `ip link` shows an XDP program on the right end."""
    return "prog/xdp" in wire.right.run(["ip", "link", "show", wire.right.iface], check=False)
