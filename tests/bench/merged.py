"""One large capture out of many small ones, for benchmarks: `python -m tests.bench.merged OUT.pcap PACKETS`.

The captures of FLOWML_TRACES one after the other in time, over and over until there are enough packets; each
round in address ranges of its own, so that no connection meets another one's tuple. Checksums stay valid.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import captures
from tests.oracle import NS_PER_S, read_pcap

GAP_NS = NS_PER_S
HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
IPV4, TCP, UDP = 0x0800, 6, 17


def write_merged(path: Path, packets: int) -> int:
    """Writes a capture of at least so many packets, whole rounds only; answers how many they are."""
    chain = list(one_after_the_other())
    written = 0
    with path.open("wb", buffering=1 << 20) as file:
        file.write(HEADER)
        length = chain[-1][0] + GAP_NS
        round_number = 0
        while written < packets:
            for time_ns, frame in chain:
                at = time_ns + round_number * length
                moved = in_range(frame, round_number)
                file.write(struct.pack("<IIII", at // NS_PER_S, at % NS_PER_S, len(moved), len(moved)))
                file.write(moved)
            written += len(chain)
            round_number += 1
    return written


def one_after_the_other() -> Iterator[tuple[int, bytes]]:
    """All packets, the first at 1 s; each capture begins after the one before it has ended."""
    end = NS_PER_S
    for path in captures():
        packets = list(read_pcap(path))
        first, shift = packets[0][0], end
        for time_ns, frame in packets:
            yield max(time_ns - first, 0) + shift, frame
        end = shift + max(time_ns for time_ns, _ in packets) - first + GAP_NS


def in_range(frame: bytes, number: int) -> bytes:
    """The frame with both IPv4 addresses moved: their second byte is XORed with the number."""
    if len(frame) < 34 or frame[12:14] != IPV4.to_bytes(2, "big"):
        return frame
    moved = bytearray(frame)
    # Twice the same change to two words of which each checksum is made: in ones' complement both count.
    before = int.from_bytes(moved[26:28], "big") + int.from_bytes(moved[30:32], "big")
    moved[27] ^= number
    moved[31] ^= number
    change = int.from_bytes(moved[26:28], "big") + int.from_bytes(moved[30:32], "big") - before
    _adjust(moved, 24, change)
    transport = 14 + 4 * (frame[14] & 15)
    checksum = {TCP: transport + 16, UDP: transport + 6}.get(frame[23])
    if checksum and checksum + 2 <= len(moved) and frame[20:22] in (b"\0\0", b"\x40\0"):
        _adjust(moved, checksum, change)
    return bytes(moved)


def _adjust(frame: bytearray, at: int, change: int) -> None:
    """A checksum after words of its data have changed (RFC 1624)."""
    total = (~int.from_bytes(frame[at : at + 2], "big") & 0xFFFF) + change
    while total < 0 or total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    frame[at : at + 2] = (~total & 0xFFFF).to_bytes(2, "big")


if __name__ == "__main__":
    print(write_merged(Path(sys.argv[1]), int(sys.argv[2])), "packets")
