"""Twice as many live connections as the table holds, as fast as this machine makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import veth_pair
from tests.overload import overload

pytestmark = pytest.mark.live


def test_every_packet_has_a_fate_and_every_connection_is_written_refused_or_open(tmp_path: Path) -> None:
    """Exactly, by the interface's own count, with table and ring both too small, while the drain runs."""
    with veth_pair() as wire:
        found = overload(wire, tmp_path, table=4096, rounds=1, ring_bytes=65536)

    assert found.fates == found.packets
    assert found.written + found.refused + found.still_open == found.offered
    assert found.written + found.still_open == found.opened
    assert found.packets >= 8 * 4096  # most of them arrive
    assert found.refused >= 4096 - 100  # the second half
    assert found.written >= 4096 - 100  # the first
    assert found.still_open > 0
    assert found.parked > 0
