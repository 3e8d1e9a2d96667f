"""How a run ends: on purpose, by force, or because something is lost. Nothing stays attached."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import kernel
from tests import frames
from tests.lab import Pair, end, run, veth_pair, wait_for
from tests.live.common import CAPTURE, connection, connections, is_attached, send
from tests.tool import FLOWML, flowml, run_to_its_end

pytestmark = pytest.mark.live

watched: set[int] = set()
"""Programs that the test has seen on its interface; others may be in the kernel for other reasons."""


def watch(wire: Pair) -> None:
    """Remembers what is attached to the interface now, as `bpftool` lists it."""
    listed = wire.right.run(["bpftool", "--json", "net", "show"])
    watched.update(int(found) for found in re.findall(r'"(?:id|prog_id)":(\d+)', listed))
    assert watched


def programs() -> set[int]:
    """Which of them are still in the kernel, as `bpftool` lists it."""
    return watched & {program["id"] for program in json.loads(run(["bpftool", "--json", "prog", "show"]))}


@pytest.fixture(autouse=True)
def _nothing_watched() -> None:
    watched.clear()


@pytest.fixture
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


def nothing_attached(wire: Pair) -> bool:
    """What `ip link`, `bpftool` and the kernel's own list say of the interface and of the programs."""
    link = wire.right.run(["ip", "-details", "link", "show", wire.right.iface])
    net = wire.right.run(["bpftool", "net", "show"])
    filters = wire.right.run(["tc", "filter", "show", "dev", wire.right.iface, "egress"])
    return not (
        "xdp" in link.replace("xdp_features", "")
        or "flowml" in net
        or "flowml" in filters
        or programs()
        or any(link.prog_id in watched for link in kernel.links())
    )


@pytest.mark.parametrize("egress", ["tcx", "clsact"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_however_it_ends_nothing_stays_attached(wire: Pair, how: signal.Signals, egress: str) -> None:
    """`ip link`, `tc` and `bpftool` show it while it runs, and nothing of it afterwards."""
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--egress", egress) as running:
        assert is_attached(wire)
        watch(wire)
        assert programs() == watched
        assert not nothing_attached(wire)

        code = running.stop(how)

        assert code == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    wait_for(lambda: nothing_attached(wire), "the hooks to be gone")
    if egress == "clsact":
        assert "clsact" not in wire.right.run(["tc", "qdisc", "show", "dev", wire.right.iface])


def test_a_clsact_qdisc_of_somebody_else_stays(wire: Pair) -> None:
    """Only the filter is taken away, not the qdisc that was there before."""
    wire.right.run(["tc", "qdisc", "add", "dev", wire.right.iface, "clsact"])
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--egress", "clsact") as running:
        assert running.stop() == 0

    assert "clsact" in wire.right.run(["tc", "qdisc", "show", "dev", wire.right.iface])
    wait_for(lambda: nothing_attached(wire), "the hooks to be gone")


@pytest.mark.parametrize(("mode", "shown"), [("native", "prog/xdp"), ("generic", "xdpgeneric")])
def test_the_mode_that_is_asked_for_is_the_one_it_says(wire: Pair, mode: str, shown: str) -> None:
    """Native and generic XDP, as `ip link` shows them."""
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--xdp", mode) as running:
        assert f"attached, {mode} XDP, egress by tcx" in running.stderr()
        assert shown in wire.right.run(["ip", "-details", "link", "show", wire.right.iface])


def test_auto_falls_back_to_tc_and_says_why() -> None:
    """The loopback interface knows no native XDP."""
    with veth_pair() as pair:
        pair.right.run(["ip", "link", "set", "lo", "up"])
        with flowml(pair.right, "collect", "lo", *CAPTURE) as running:
            said = running.stderr()

    assert "lo: attached, ingress by tcx\n" in said
    assert "lo refuses native XDP" in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_open_is_written_at_the_end(wire: Pair, how: signal.Signals, tmp_path: Path) -> None:
    """Ended and open connections, all in the file; the summary adds up; exit code 0."""
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE) as running:
        send(wire, connections(range(7)), tmp_path)
        send(wire, [frames.tcp("S", sport=2000 + n) for n in range(5)], tmp_path)
        wait_for(lambda: len(running.lines()) == 7, "the first seven")

        assert running.stop(how) == 0
        assert [record["reason"] for record in running.lines()] == ["rst"] * 7 + ["shutdown"] * 5
        assert "Done. Processed 12 connections" in running.stderr()
        counters = running.counters()
        assert (counters["opened"], counters["delivered"], counters["tracked"]) == (12, 12, 26)


def test_a_duration_ends_it(wire: Pair, tmp_path: Path) -> None:
    """By itself, as a signal would (what is open then is written: tests/kernel/test_pipeline.py)."""
    outfile = tmp_path / "out.jsonl"
    options = ("--outfile", outfile, "--duration", "1")

    code, said = run_to_its_end("collect", wire.right.iface, *CAPTURE, *options, ns=wire.right.ns)

    assert code == 0
    assert said.splitlines()[-1] == "Done. Processed 0 connections"
    assert nothing_attached(wire)


def test_timeouts_are_swept_while_it_runs(wire: Pair, tmp_path: Path) -> None:
    """A connection that goes silent is written while the others go on."""
    settings = tmp_path / "online.toml"
    settings.write_text(
        "[conntrack]\ntcp_establish_timeout = 1000\ntcp_inactivity_timeout = 2000\ntimeout_resolution = 50\n"
    )
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, "--config", settings) as running:
        send(wire, [frames.tcp("S", sport=1), *connection(2)[:2]], tmp_path)
        wait_for(lambda: len(running.lines()) == 2, "both timeouts")

        reasons = {record["src_port"]: record["reason"] for record in running.lines()}
        assert reasons == {1: "establish", 1026: "idle"}


def test_a_second_instance_is_refused_and_told_who_holds_it(wire: Pair, tmp_path: Path) -> None:
    """The first goes on undisturbed."""
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE) as first:
        code, said = run_to_its_end(
            "collect", wire.right.iface, "--outfile", tmp_path / "second.jsonl", ns=wire.right.ns
        )

        assert code == 6
        assert f"{wire.right.iface} has an XDP program already, held by process {first.process.pid}" in said
        assert len(said.splitlines()) == 1
        assert first.process.poll() is None


def test_a_run_that_is_refused_leaves_nothing_behind(wire: Pair, tmp_path: Path) -> None:
    """No file and none beside it; what was there before stays as it was."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE):
        for outfile in (tmp_path / "new.jsonl", empty):
            code, said = run_to_its_end("collect", wire.right.iface, "--outfile", outfile, ns=wire.right.ns)
            assert code == 6, said

    assert list(tmp_path.iterdir()) == [empty]


def test_what_is_beside_training_data_holds_for_all_of_it(wire: Pair, tmp_path: Path) -> None:
    """It is appended to with the settings that it was made with, and with no others; a file that has lines
    and nothing beside it is refused, and stays as it is."""
    outfile, beside = tmp_path / "train.jsonl", tmp_path / "train.jsonl.meta.json"
    where = ("collect", wire.right.iface, "--outfile", outfile)
    for number in range(2):
        with flowml(wire.right, *where, *CAPTURE, own_outfile=True) as running:
            send(wire, [frames.tcp("S", sport=number)], tmp_path)
            assert running.stop() == 0
        assert json.loads(beside.read_text())["filter"] == "tcp"
    before = outfile.read_bytes()
    assert before.count(b"\n") == 2

    for other in (("--filter", "tls"), (*CAPTURE, "--ip", "both")):
        code, said = run_to_its_end(*where, *other, ns=wire.right.ns)
        assert (code, len(said.splitlines())) == (3, 1)
        assert "holds connections collected with other settings" in said

    told = json.loads(beside.read_text())
    assert told.pop("ip") == "4"
    beside.write_text(json.dumps(told))  # as it was written before there was another
    code, said = run_to_its_end(*where, *CAPTURE, "--ip", "6", ns=wire.right.ns)
    assert (code, len(said.splitlines())) == (3, 1)
    with flowml(wire.right, *where, *CAPTURE, own_outfile=True) as running:
        assert running.stop() == 0

    beside.unlink()
    code, said = run_to_its_end(*where, *CAPTURE, ns=wire.right.ns)
    assert (code, len(said.splitlines())) == (3, 1)
    assert "holds lines already, and no train.jsonl.meta.json beside it says how they were made" in said

    beside.write_text("{")
    code, said = run_to_its_end(*where, *CAPTURE, ns=wire.right.ns)
    assert (code, len(said.splitlines())) == (3, 1)
    assert f"{beside} cannot be understood" in said
    assert outfile.read_bytes() == before


def test_of_two_interfaces_the_other_goes_on(wire: Pair, tmp_path: Path) -> None:
    """Each has a table of its own and its name in the record; losing one does not end the other."""
    wire.right.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2"])
    for name in ("eth1", "eth2"):
        wire.right.run(["ip", "link", "set", name, "up", "arp", "off", "multicast", "off"])
    with flowml(wire.right, "collect", wire.right.iface, "eth1", *CAPTURE) as running:
        wire.right.run(["ip", "link", "del", "eth1"])
        wait_for(lambda: "eth1 has gone" in running.stderr(), "the loss to be noticed")
        send(wire, connection(0), tmp_path)
        wait_for(lambda: len(running.lines()) == 1, "a connection on the other")

        assert running.lines()[0]["iface"] == wire.right.iface
        assert running.stop() == 6
        assert "eth1 has gone" in running.stderr().splitlines()[-1]


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "its reader has gone"])
def test_without_a_standard_error_it_runs_and_says_nothing(wire: Pair, closed: bool, tmp_path: Path) -> None:
    """No message gets among the JSON, and none ends it."""
    argv: list[str | Path] = ["bash", "-c", 'exec "$@" 2>&-' if closed else 'exec "$@"', "bash"]
    argv += ["ip", "netns", "exec", wire.right.ns, FLOWML]
    argv += ["collect", wire.right.iface, *CAPTURE, "--outfile", "-"]
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as stderr:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr)
    try:
        wait_for(lambda: is_attached(wire), "attached", timeout=60)
        send(wire, connection(0), tmp_path)
        assert process.stdout is not None
        with process.stdout as pipe:
            assert json.loads(pipe.readline())["src_port"] == 1024
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert pipe.read() == b""
    finally:
        end(process)


def test_the_machine_has_what_these_tests_ask() -> None:
    """A missing tool would make them say that nothing is attached."""
    assert all(shutil.which(tool) for tool in ("bpftool", "tc", "ip", "tcpreplay"))
    assert os.geteuid() == 0


def promiscuous(wire: Pair) -> bool:
    return "promiscuity 1" in wire.right.run(["ip", "-details", "link", "show", wire.right.iface])


def test_a_mirror_port_takes_in_frames_for_others_while_it_lasts(wire: Pair) -> None:
    """Promiscuous with --direction ingress, not otherwise, and never after a kill."""
    with flowml(wire.right, "collect", wire.right.iface, "--direction", "ingress") as running:
        assert promiscuous(wire)
        running.stop(signal.SIGKILL)
    wait_for(lambda: not promiscuous(wire), "promiscuous mode to end")
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE):
        assert not promiscuous(wire)


def test_on_the_loopback_each_segment_counts_once(tmp_path: Path) -> None:
    """What goes out of lo comes in again; the egress hook is left out there, and that is said."""
    with veth_pair() as pair:
        pair.right.run(["ip", "link", "set", "lo", "up"])
        with flowml(pair.right, "collect", "lo", *CAPTURE) as running:
            talk = (
                "import socket; s = socket.create_server(('127.0.0.1', 0));"
                "c = socket.create_connection(s.getsockname()); p = s.accept()[0]; c.send(b'x');"
                "p.recv(1); c.close(); p.recv(1); p.close()"
            )
            pair.right.run(["python3", "-c", talk])
            wait_for(lambda: len(running.lines()) == 1, "the connection")
            assert running.stop() == 0
            (record,), said = running.lines(), running.stderr()

    assert "what goes out comes in again" in said
    assert (record["reason"], record["s_mac"]) == ("fin", "00:00:00:00:00:00")
    # SYN, ACK, x, FIN from here; SYN-ACK, ACK, FIN from there (the last ACK meets no entry).
    assert record["s_pkt_cnt"] == 4
    assert record["d_pkt_cnt"] in (3, 4)
