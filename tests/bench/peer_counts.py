"""What other tools count of every real capture, and what each has to count by its own rules."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from itertools import pairwise

from tests.bench.peer_tools import FLOWML_TLS, NF, NFSTREAM_IDLE_S, SOFTFLOWD, TOOLS, timed
from tests.bench.rounds import Found
from tests.oracle import NS_PER_S
from tests.referees.seen import Capture, merged
from tests.referees.test_argus import argus, records_of

__all__ = ["compare"]

ETHERNET = 14  # bytes of the header


@dataclass
class Counts:
    """Of TCP over IPv4."""

    flows: int = 0
    segments: int = 0
    bytes: int = 0
    """Of IP packets; softflowd: with the padding of short frames; argus: of frames."""

    def add(self, flows: int, segments: int, size: int) -> None:
        self.flows += flows
        self.segments += segments
        self.bytes += size


def compare() -> Found:
    """What each counts of every real capture, and whether that is what it is known to count.

    To flowml a connection begins with a SYN and ends with its end. To the others a tuple is one flow,
    whatever it begins with and until it is silent: their segments are flowml's and those of no connection.
    """
    found = {name: Counts() for name in (FLOWML_TLS, SOFTFLOWD, "argus", NF)}
    wanted = {name: Counts() for name in found}
    for capture in merged():
        path = capture.path
        for line in capture.lines:
            sums = (int(line[f"s_{what}"] + line[f"d_{what}"]) for what in ("pkt_cnt", "bytes_sum"))
            found[FLOWML_TLS].add(1, *sums)
        octets, segments = softflowd_tcp(timed(TOOLS[SOFTFLOWD](path)).out)
        found[SOFTFLOWD].add(0, segments, octets)
        for one in (one for several in argus(path).values() for one in several):
            found["argus"].add(
                1, *(int(one[f"s{what}"]) + int(one[f"d{what}"]) for what in ("pkts", "bytes"))
            )
        counted = timed(TOOLS[NF](path)).out.splitlines()[-1]  # after a word on having one core
        found[NF].add(*map(int, counted.split()))
        for name, counts in expected(capture).items():
            wanted[name].add(counts.flows, counts.segments, counts.bytes)
    return {name: {**asdict(counts), "expected": asdict(wanted[name])} for name, counts in found.items()}


def softflowd_tcp(said: str) -> tuple[int, int]:
    """Octets and packets in its statistics."""
    found = re.search(r"tcp \(6\): +(\d+) +(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def expected(capture: Capture) -> dict[str, Counts]:
    """What each tool has to count, from the packets."""
    of = {name: Counts() for name in (FLOWML_TLS, SOFTFLOWD, "argus", NF)}
    for packets in capture.tuples.values():
        size = sum(packet.segment.ip_bytes for packet in packets)
        frames = sum(packet.frame_bytes for packet in packets)
        inside = [packet for packet in packets if packet.connection is not None]
        of["flowml"].add(0, len(inside), sum(packet.segment.ip_bytes for packet in inside))
        of["softflowd"].add(0, len(packets), frames - ETHERNET * len(packets))
        of["argus"].add(len(records_of(packets)), len(packets), frames)
        times = [packet.time_ns for packet in packets]
        silences = sum(later - earlier >= NFSTREAM_IDLE_S * NS_PER_S for earlier, later in pairwise(times))
        of["nfstream"].add(1 + silences, len(packets), size)
    of["flowml"].flows = len(capture.connections)
    return of
