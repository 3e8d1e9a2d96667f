"""The bytes of a capture through the core on the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

from collector.records import FATES, Rows, joined
from collector.replay import Account, Limits, Replay

__all__ = ["LIMITS", "Replayed", "replayed"]

LIMITS = Limits(
    max_connections=4096, tcp_establish_timeout=5000, tcp_inactivity_timeout=300_000, tls_only=False
)


@dataclass(frozen=True)
class Replayed:
    """What a capture came to."""

    rows: Rows
    account: Account
    trouble: str

    @property
    def fates(self) -> dict[str, int]:
        """What became of the packets; only what did."""
        return {name: self.account.counters[name] for name in FATES if self.account.counters[name]}

    def check_sums(self) -> None:
        """Fates add up to the packets, connections to those that were opened; trouble is one line."""
        counters = self.account.counters
        assert sum(counters[name] for name in FATES) == self.account.packets
        assert counters["opened"] == counters["delivered"] + counters["filtered"]
        assert counters["delivered"] == len(self.rows)
        assert len(self.trouble.splitlines()) <= 1


def replayed(capture: bytes, limits: Limits = LIMITS) -> Replayed:
    """Everything that is in a capture, and its sums checked."""
    fd = os.memfd_create("capture")
    try:
        os.write(fd, capture)
        os.lseek(fd, 0, os.SEEK_SET)
        with Replay(fd, limits) as replay:
            rows = joined(replay.batches())
            found = Replayed(rows, replay.account(), replay.trouble)
    finally:
        os.close(fd)
    found.check_sums()
    return found
