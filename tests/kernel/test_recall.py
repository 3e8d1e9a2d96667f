"""The memory in front of the hash: asked first, and never believed without the flow in the slot saying so."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.records import IP_VERSIONS
from tests import frames
from tests.compare import in_order, raw_of_connection, raw_of_rows
from tests.conftest import captures
from tests.oracle import Oracle, read_pcap
from tests.replay import Replay, changed_core

pytestmark = pytest.mark.kernel

START = 10**15
LIVES = 1 << 14
"""How often a slot is opened until its epoch comes around: 16 bits, two of them for the phase."""
TIMED_OUT_NS = 5_000_000_001

FIND = "\tstruct flow_ref *found = flows.lookup(&own);\n"
DIGEST = "\treturn mixed * 0xc4ceb9fe1a85ec53ULL;\n"


def forgetful(folder: Path, *, ip: str = "4") -> Replay:
    """A core in which every key has the same place and the same tag, so that each recalls any other's."""
    return Replay(source=changed_core(folder, DIGEST, "\treturn 0;\n"), ip=ip)


def test_a_known_connection_is_not_looked_up_again(tmp_path: Path) -> None:
    """Once for the first segment, which finds nothing, once for the second; the counter stands in for it."""
    counted = changed_core(tmp_path, FIND, FIND + "\n\thost_count(host, COUNT_evicted);\n")
    with Replay(source=counted) as programs:
        for number, frame in enumerate([frames.tcp("S"), frames.answer("SA"), *[frames.tcp("A")] * 50]):
            programs.send(START + number, frame)
        assert programs.counters()["tracked"] == 52
        assert programs.counters()["evicted"] == 2


def at_once(paths: list[Path]) -> list[tuple[int, bytes]]:
    """Their packets in the order of time, as if all captures had begun at the same moment."""
    found = []
    for path in paths:
        packets = list(read_pcap(path))
        found += [(START + time_ns - packets[0][0], frame) for time_ns, frame in packets]
    return sorted(found)


@pytest.mark.traces
@pytest.mark.parametrize("ip", ["4", "both"])
def test_connections_that_recall_each_other_are_counted_apart(tmp_path: Path, ip: str) -> None:
    """Captures, at once in one table, packet by packet in turns: as the oracle counts each."""
    packets = at_once(captures()[::40])
    oracle = Oracle(versions=str(IP_VERSIONS[ip]))
    for time_ns, frame in packets:
        oracle.packet(time_ns, frame)
    expected = in_order([raw_of_connection(one) for one in oracle.finish()])

    with forgetful(tmp_path, ip=ip) as programs:
        found = in_order(raw_of_rows(programs.run(packets)))

    assert len(found) > 100
    assert found == expected


def outlived(programs: Replay, last: bytes) -> int:
    """The connection of `frames.tcp` ends, and its slot is used by others until its epoch is the one
    remembered: then by the connection that the last frame starts. Of others nothing is remembered, because
    they have one segment each. Answers the time."""
    now = START
    for flags in ("S", "A", "R"):
        programs.send(now, frames.tcp(flags))
    for frame in [frames.tcp("S", sport=2222)] * (LIVES - 1) + [last]:
        programs.send(now, frame)
        now += TIMED_OUT_NS
        if frame is not last:
            programs.sweep(now)
            programs.read()
    counters = programs.counters()
    assert (counters["opened"], counters["delivered"]) == (1 + LIVES, LIVES)
    return now - TIMED_OUT_NS


def test_a_memory_as_old_as_a_slots_epochs_is_not_believed(tmp_path: Path) -> None:
    """A late segment finds the epoch it remembers, and a connection that is not its own."""
    with forgetful(tmp_path) as programs:
        now = outlived(programs, frames.tcp("S", sport=2222))

        programs.send(now, frames.tcp("A"))

        assert programs.counters()["untracked"] == 1
        (raw,) = raw_of_rows(programs.finish())
        assert (raw["src"][1], raw["s"]["packets"]) == (2222, 1)


def test_nor_is_it_believed_which_end_began(tmp_path: Path) -> None:
    """The same two ends, slot and epoch; but this time it was the other one that began."""
    with forgetful(tmp_path) as programs:
        now = outlived(programs, frames.answer("S"))

        programs.send(now, frames.answer("A"))

        (raw,) = raw_of_rows(programs.finish())
        assert (raw["s"]["packets"], raw["d"]["packets"]) == (2, 0)
