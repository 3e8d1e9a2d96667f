"""A mirror port: real captures, replayed over a veth pair, counted as the oracle counts them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.conftest import captures
from tests.lab import replay, veth_pair
from tests.oracle import Oracle, read_pcap
from tests.tool import flowml

pytestmark = [pytest.mark.live, pytest.mark.traces]

NEVER_MS = 24 * 3600 * 1000
RATE = 20_000  # packets a second: what the wire's queue takes without loss
EXACT = (
    "s_pkt_cnt",
    "d_pkt_cnt",
    "s_bytes_sum",
    "d_bytes_sum",
    "s_ttl_mean",
    "d_ttl_mean",
    "s_bytes_mean",
    "d_bytes_mean",
    "proto",
)
"""The features that do not depend on when a packet came."""


def joined(paths: list[Path], to: Path) -> list[tuple[int, bytes]]:
    """One capture of many, in the order of their names; its packets."""
    packets = [packet for path in paths for packet in read_pcap(path)]
    with to.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for time_ns, frame in packets:
            seconds, ns = divmod(time_ns, 10**9)
            file.write(struct.pack("<IIII", seconds, ns // 1000, len(frame), len(frame)) + frame)
    return packets


def test_every_connection_of_every_capture_is_counted_exactly(tmp_path: Path) -> None:
    """All captures in one replay: as many connections as the oracle finds, the same counts in each.

    The replay is faster than the captures were, so times differ, and no timeout may end a connection that
    the oracle does not end: both get timeouts longer than the replay.
    """
    paths = captures()
    assert len({path.parent for path in paths}) >= 20
    assert len(paths) >= 40
    packets = joined(paths, tmp_path / "all.pcap")
    oracle = Oracle(establish_timeout_ms=10**12, inactivity_timeout_ms=10**12)
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    expected = oracle.finish()
    settings = tmp_path / "online.toml"
    settings.write_text(
        f"[conntrack]\ntcp_establish_timeout = {NEVER_MS}\ntcp_inactivity_timeout = {NEVER_MS}\n"
    )

    with (
        veth_pair() as wire,
        flowml(
            wire.right,
            "collect",
            wire.right.iface,
            *("--direction", "ingress", "--filter", "tcp", "--config", settings),
        ) as running,
    ):
        replay(wire, tmp_path / "all.pcap", len(packets), ["--pps", str(RATE)])
        assert running.stop() == 0
        records, counters = running.lines(), running.counters()

    assert {fate: counters.get(fate, 0) for fate in oracle.counters} == oracle.counters
    assert sum(oracle.counters.values()) == len(packets)

    def identity(record: dict[str, object]) -> tuple[object, ...]:
        return tuple(
            record[name] for name in ("src_ip", "src_port", "dst_ip", "dst_port", "s_mac", "tls", "reason")
        )

    ours = [(*identity(record), *(record[name] for name in EXACT)) for record in records]
    theirs = []
    for one in expected:
        features = one.features()
        ends = (one.src_ip, one.src_port, one.dst_ip, one.dst_port, one.s_mac, one.tls, one.reason)
        theirs.append((*ends, *(features[name] for name in EXACT)))
    assert sorted(ours, key=repr) == sorted(theirs, key=repr)
