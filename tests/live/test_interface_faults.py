"""The interface goes down, comes back, loses its carrier, gets another name or MTU, goes away for good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import frames
from tests.lab import Pair, run, veth_pair, wait_for
from tests.live.common import CAPTURE, connection, connections, is_attached, send
from tests.tool import Running, flowml

pytestmark = pytest.mark.live


@pytest.fixture
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture
def running(wire: Pair) -> Iterator[Running]:
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE) as one:
        yield one


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another network namespace."""
    name = f"flowml-{os.getpid()}-0-elsewhere"
    run(["ip", "netns", "add", name])
    yield name
    run(["ip", "netns", "delete", name])


def link(wire: Pair, *words: str) -> None:
    wire.right.run(["ip", "link", "set", wire.right.iface, *words])


def has_carrier(wire: Pair) -> bool:
    shown = wire.right.run(["ip", "-json", "link", "show", wire.right.iface])
    return "LOWER_UP" in json.loads(shown)[0]["flags"]


def said(running: Running, *words: str) -> None:
    """Waits until standard error has a line that ends with each, in this order."""

    def in_order() -> bool:
        lines = iter(running.stderr().splitlines())
        return all(any(line.endswith(word) for line in lines) for word in words)

    wait_for(in_order, f"it to say {words}")


def written(running: Running, count: int) -> None:
    wait_for(lambda: len(running.lines()) == count, f"{count} lines")


@pytest.mark.parametrize("egress", ["tcx", "clsact"])
def test_down_and_up_again_is_no_end(wire: Pair, egress: str, tmp_path: Path) -> None:
    """What was open before the interface went down goes on when it is up again; both are said."""
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--egress", egress) as running:
        goes_on_after_down_and_up(wire, running, tmp_path)


def goes_on_after_down_and_up(wire: Pair, running: Running, tmp_path: Path) -> None:
    send(wire, frames_of(0, "SA"), tmp_path)

    link(wire, "down")
    said(running, "eth0 is down")
    link(wire, "up")
    wait_for(lambda: has_carrier(wire), "the link")
    send(wire, frames_of(0, "R") + connection(1), tmp_path)
    written(running, 2)
    said(running, "eth0 is down", "eth0 is up")

    assert running.stop() == 0
    first, second = running.lines()
    assert (first["reason"], first["s_pkt_cnt"]) == ("rst", 3)
    assert second["s_pkt_cnt"] == 3
    assert running.counters()["tracked"] == 6


def frames_of(number: int, flags: str) -> list[bytes]:
    """The segments of one connection that carry these flags, one each."""
    return [frames.tcp(flag, sport=1024 + number) for flag in flags]


def test_while_it_is_down_connections_time_out(wire: Pair, tmp_path: Path) -> None:
    """As on any silent wire; what ends is written."""
    settings = tmp_path / "settings.toml"
    settings.write_text("[conntrack]\ntcp_establish_timeout = 500\n")
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--config", settings) as running:
        send(wire, frames_of(0, "S"), tmp_path)
        link(wire, "down")
        written(running, 1)

        assert running.lines()[0]["reason"] == "establish"
        assert running.process.poll() is None


def test_a_flapping_interface_loses_nothing_that_came_in(
    wire: Pair, running: Running, tmp_path: Path
) -> None:
    """Down and up twenty times, with connections in between: each has its line."""
    for number in range(20):
        send(wire, connection(number), tmp_path)
        link(wire, "down")
        link(wire, "up")
        wait_for(lambda: has_carrier(wire), "the link")
    written(running, 20)

    assert running.stop() == 0
    assert sorted(line["src_port"] for line in running.lines()) == [1024 + n for n in range(20)]


def test_without_carrier_it_waits(wire: Pair, running: Running, tmp_path: Path) -> None:
    """The other end goes down and comes back: both are said, and counting goes on."""
    wire.left.run(["ip", "link", "set", wire.left.iface, "down"])
    said(running, "eth0 has no carrier")
    wire.left.run(["ip", "link", "set", wire.left.iface, "up"])
    wait_for(lambda: has_carrier(wire), "the link")
    said(running, "eth0 has no carrier", "eth0 is up")
    send(wire, connection(0), tmp_path)
    written(running, 1)


def test_renamed_it_goes_on_under_its_old_name(wire: Pair, running: Running, tmp_path: Path) -> None:
    """Lines tell the name that was asked for, so that one interface is one name; the new name is said."""
    link(wire, "name", "wan0")
    said(running, "eth0 is called wan0 by now: in lines it stays eth0")
    before = running.lines()
    wire.left.run(["tcpreplay", "--quiet", "-i", wire.left.iface, capture(tmp_path, connection(0))])
    written(running, len(before) + 1)

    assert running.lines()[-1]["iface"] == "eth0"
    assert running.stop() == 0


def capture(folder: Path, packets: list[bytes]) -> Path:
    path = folder / "some.pcap"
    path.write_bytes(frames.pcap([(1 + i, frame) for i, frame in enumerate(packets)]))
    return path


@pytest.mark.parametrize("mtu", [1280, 9000])
def test_another_mtu_changes_nothing(wire: Pair, running: Running, mtu: int, tmp_path: Path) -> None:
    """The hooks stay, a connection that was open goes on."""
    send(wire, frames_of(0, "SA"), tmp_path)
    link(wire, "mtu", str(mtu))
    send(wire, frames_of(0, "AR"), tmp_path)
    written(running, 1)

    assert running.lines()[0]["s_pkt_cnt"] == 4
    assert is_attached(wire)


LOSSES: list[tuple[str, Callable[[Pair, str], None], str]] = [
    ("deleted", lambda wire, _: link_deleted(wire), "eth0 has gone"),
    (
        "moved",
        lambda wire, elsewhere: link(wire, "netns", elsewhere),
        "eth0 was moved to another network namespace",
    ),
]


def test_an_interface_that_is_moved_takes_no_filter_along(wire: Pair, elsewhere: str) -> None:
    """Where egress goes by clsact, and a process in the old namespace would take it away."""
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--egress", "clsact") as running:
        link(wire, "netns", elsewhere)
        assert running.process.wait(60) == 6

    filters = run(
        ["ip", "netns", "exec", elsewhere, "tc", "filter", "show", "dev", "eth0", "egress"], check=False
    )
    assert "flowml" not in filters


def link_deleted(wire: Pair) -> None:
    wire.right.run(["ip", "link", "del", wire.right.iface])


@pytest.mark.parametrize(("loss", "words"), [case[1:] for case in LOSSES], ids=[case[0] for case in LOSSES])
def test_an_interface_that_is_lost_ends_it_with_everything_written(
    wire: Pair,
    running: Running,
    elsewhere: str,
    loss: Callable[[Pair, str], None],
    words: str,
    tmp_path: Path,
) -> None:
    """Deleted, or moved to another namespace: open connections are written, the exit code tells, and what
    was moved has no program on it any more."""
    send(wire, [*connection(0), frames.tcp("S", sport=9)], tmp_path)
    written(running, 1)

    loss(wire, elsewhere)
    assert running.process.wait(60) == 6

    assert [record["reason"] for record in running.lines()] == ["rst", "shutdown"]
    assert f"flowml: {words}: everything counted until then is written" in running.stderr()
    assert "Done. Processed 2 connections" in running.stderr()
    shown = run(["ip", "netns", "exec", elsewhere, "ip", "-details", "link"])
    assert "prog/xdp" not in shown
    if "moved" in words:
        assert "eth0@" in shown


def test_two_instances_on_two_interfaces_share_a_file(wire: Pair, tmp_path: Path) -> None:
    """Their lines come whole, whichever is faster, and each says which interface it is from."""
    wire.right.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2"])
    for name in ("eth1", "eth2"):
        wire.right.run(["ip", "link", "set", name, "up", "arp", "off", "multicast", "off"])
    outfile = tmp_path / "both.jsonl"
    options = (*CAPTURE, "--outfile", outfile)
    path = capture(tmp_path, connections(range(2003)))
    with (
        flowml(wire.right, "collect", "eth0", *options, own_outfile=True) as one,
        flowml(wire.right, "collect", "eth1", *options, own_outfile=True) as other,
    ):
        senders = [
            wire.left.popen(["tcpreplay", "--quiet", "--topspeed", "-i", "eth0", path]),
            wire.right.popen(["tcpreplay", "--quiet", "--topspeed", "-i", "eth2", path]),
        ]
        wait_for(lambda: all(sender.poll() == 0 for sender in senders), "all to be sent")
        wait_for(lambda: outfile.read_bytes().count(b"\n") == 4006, "all to be written")
        for running, iface in ((one, "eth0"), (other, "eth1")):
            assert running.stop() == 0
            assert running.counters(iface)["opened"] == 2003

    lines = [json.loads(line) for line in outfile.read_bytes().splitlines()]
    for iface in ("eth0", "eth1"):
        ports = [line["src_port"] for line in lines if line["iface"] == iface]
        assert sorted(ports) == [1024 + n for n in range(2003)]
