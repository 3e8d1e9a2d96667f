"""Every real capture: the core on the CPU counts as the oracle counts, and the command writes that."""

from __future__ import annotations

import functools
import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from collector.records import joined
from collector.replay import CLOCK_OFFSET_NS, Limits, Replay
from tests.captures.common import Record, command, record_of, same
from tests.compare import in_order, raw_of_connection, raw_of_rows
from tests.conftest import captures
from tests.oracle import ESTABLISH_TIMEOUT_MS, INACTIVITY_TIMEOUT_MS, Connection, Oracle, read_pcap

pytestmark = pytest.mark.traces

CAPTURES = captures()
LIMITS = Limits(
    max_connections=4096,
    tcp_establish_timeout=ESTABLISH_TIMEOUT_MS,
    tcp_inactivity_timeout=INACTIVITY_TIMEOUT_MS,
    tls_only=False,
)


@functools.cache
def judged(path: Path) -> tuple[list[Connection], dict[str, int]]:
    """What the oracle makes of a capture: connections, and fates of packets."""
    oracle = Oracle()
    for time_ns, frame in read_pcap(path):
        oracle.packet(time_ns, frame)
    return oracle.finish(), oracle.counters


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_connection_is_counted_as_the_oracle_counts_it(capture: Path) -> None:
    """Raw integers are equal, bit for bit; so are the fates of the packets."""
    expected, fates = judged(capture)
    fd = os.open(capture, os.O_RDONLY)
    try:
        with Replay(fd, LIMITS) as replay:
            rows = joined(replay.batches())
            account, trouble = replay.account(), replay.trouble
    finally:
        os.close(fd)
    for name in ("first_ns", "last_ns", "handshake_ns"):
        times = rows["side"][name]
        times[times != 0] -= -CLOCK_OFFSET_NS  # 0 means "not seen" before and after
    assert trouble == ""
    assert in_order(raw_of_rows(rows)) == in_order([raw_of_connection(one) for one in expected])
    assert {fate: account.counters[fate] for fate in fates} == fates
    assert account.packets == sum(fates.values())


def test_the_command_writes_what_the_oracle_says() -> None:
    """All captures at once, to the last feature: connections in the order of starts, capture by capture;
    and the same, byte for byte, with three captures read at a time."""
    one_by_one = command(*CAPTURES, "--filter", "tcp")
    assert one_by_one.returncode == 0
    lines = [json.loads(line) for line in one_by_one.stdout.splitlines()]
    wanted = [record_of(one, capture=str(path)) for path in CAPTURES for one in judged(path)[0]]
    at_start = [(one["capture"], one["start"], *ends(one)) for one in lines]
    order = {str(path): number for number, path in enumerate(CAPTURES)}
    assert at_start == sorted(at_start, key=lambda key: (order[key[0]], key[1:]))
    wanted.sort(key=lambda one: (order[one["capture"]], one["start"], *ends(one)))
    assert same(lines, wanted)
    assert len(CAPTURES) >= 40
    assert len(lines) > len(CAPTURES)

    three_at_a_time = command(*CAPTURES, "--filter", "tcp", "--jobs", "3")
    assert three_at_a_time.stdout == one_by_one.stdout
    assert three_at_a_time.stderr == one_by_one.stderr


def ends(one: Record) -> tuple[object, ...]:
    """Endpoints, as they are ordered."""
    src, dst = (int(ip_address(one[name])) for name in ("src_ip", "dst_ip"))
    return src, one["src_port"], dst, one["dst_port"]
