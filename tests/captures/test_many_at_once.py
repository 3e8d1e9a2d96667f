"""The table grows with what is open."""

from __future__ import annotations

import pytest

from collector.records import ORIGINATOR, Reason, packets, sides
from tests.frames import pcap, tcp
from tests.on_cpu import LIMITS, replayed
from tests.oracle import NS_PER_S

CONNECTIONS = 5_000  # several times as many as there is room for in the hash at first
RST = 0x04
FLAGS_AT, PORT_AT, ADDRESS_END = 47, 34, 30


@pytest.mark.parametrize("ip", ["4", "both"])
def test_each_is_found_again(ip: str) -> None:
    """All are opened before the first ends: each has its two segments, and ends by its own reset."""
    syn, reset = tcp("S"), bytearray(tcp("S"))
    reset[FLAGS_AT] = RST
    frames = [_of(number, frame) for frame in (syn, bytes(reset)) for number in range(CONNECTIONS)]
    capture = pcap((NS_PER_S + number, frame) for number, frame in enumerate(frames))

    found = replayed(capture, LIMITS._replace(max_connections=CONNECTIONS + 1, ip=ip))

    assert found.fates == {"tracked": 2 * CONNECTIONS}
    assert found.account.counters["opened"] == CONNECTIONS
    assert packets(sides(found.rows))[ORIGINATOR].tolist() == [2] * CONNECTIONS
    assert set(found.rows["reason"].tolist()) == {Reason.RST}


def _of(number: int, frame: bytes) -> bytes:
    """The frame with a source port and address of its own."""
    high, low = divmod(number, 1 << 8)
    return (
        frame[: ADDRESS_END - 1]
        + bytes([high])
        + frame[ADDRESS_END:PORT_AT]
        + bytes([high, low])
        + frame[PORT_AT + 2 :]
    )
