"""Captures that tcpdump and dumpcap take of the same traffic at the same time: the same connections.

Each program reads the clock by itself, some microseconds apart: times are compared with what the oracle makes
of the same capture, and everything else with what it makes of the other ones.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.captures.common import Packet, Record, command, records, same
from tests.lab import Host, Pair, end, run, two_hosts, wait_for
from tests.oracle import read_pcap
from tests.traffic import Profile, quiet, start_device, start_server

pytestmark = pytest.mark.live

PROFILE = Profile(request_bytes=700, answer_bytes=20_000, requests=2, pause_ms=1)
COUNT = 5  # connections over each wire
SECOND_IFACE, SECOND_IP, SECOND_CLIENT_IP = "eth1", "10.67.0.1", "10.67.0.2"
SLL, SLL2 = 113, 276
IN_NS = ("--time-stamp-precision", "nano")
REFERENCES = ("eth0", "eth1", "lo")
"""Interfaces of the server's, each captured as Ethernet in nanoseconds, for the oracle."""

EXACT = (
    *("src_ip", "src_port", "dst_ip", "dst_port", "s_mac", "tls", "reason"),
    *("s_pkt_cnt", "d_pkt_cnt", "s_bytes_sum", "d_bytes_sum", "s_ttl_mean", "d_ttl_mean"),
)
"""Members of a line that do not depend on the clock."""

PROGRAMS = {
    **{f"{iface}.pcap": ("tcpdump", "-i", iface, *IN_NS) for iface in REFERENCES},
    "us.pcap": ("tcpdump", "-i", "eth0"),
    "96.pcap": ("tcpdump", "-i", "eth0", "-s", "96", *IN_NS),
    "any.pcap": ("tcpdump", "-i", "any", *IN_NS),
    "sll.pcap": ("tcpdump", "-i", "any", "-y", "LINUX_SLL", *IN_NS),
    "sll2.pcap": ("tcpdump", "-i", "any", "-y", "LINUX_SLL2", *IN_NS),
    "two.pcapng": ("dumpcap", "-q", "-i", "eth0", "-i", "eth1"),
    "two-at-96.pcapng": ("dumpcap", "-q", "-s", "96", "-i", "eth0", "-i", "eth1"),
}


def second_wire(pair: Pair) -> None:
    """Another veth pair between the two hosts."""
    other_end = ["type", "veth", "peer", "name", SECOND_IFACE, "netns", pair.right.ns]
    pair.left.run(["ip", "link", "add", SECOND_IFACE, *other_end])
    for host, ip in ((pair.left, SECOND_CLIENT_IP), (pair.right, SECOND_IP)):
        host.run(["ip", "address", "add", f"{ip}/24", "dev", SECOND_IFACE])
        host.run(["ip", "link", "set", SECOND_IFACE, "up"])


@contextlib.contextmanager
def capturing(host: Host, folder: Path) -> Iterator[None]:
    """Every program at work in the body."""
    processes = []
    for name, argv in PROGRAMS.items():
        more = ("-U", "-B", "8192", "-Z", "root") if argv[0] == "tcpdump" else ()
        log = folder / f"{name}.log"
        processes.append(host.popen([*argv, *more, "-w", folder / name], err=log))
        ready = b"listening on" if argv[0] == "tcpdump" else b"File: "
        wait_for(functools.partial(holds, log, ready), f"{name}: {ready.decode()}", process=processes[-1])
    yield
    for process in processes:
        assert end(process, timeout=30) == 0, process.last_words()


def mark_the_end(host: Host, ip: str, mark: bytes) -> None:
    """A datagram after which nothing comes that is of interest."""
    code = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto({mark!r}, ({ip!r}, 9))"
    host.run(["/usr/bin/python3", "-c", code])


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the captures: TLS over two wires and the loopback of the server at the same time."""
    folder = tmp_path_factory.mktemp("taken")
    with two_hosts() as pair:
        second_wire(pair)
        ways = [  # a client, the server's address for it, the mark of its end
            (pair.left, pair.right.ip, b"the end of eth0"),
            (pair.left, SECOND_IP, b"the end of eth1"),
            (pair.right, "127.0.0.1", b"the end of lo"),
        ]
        services = []
        for number, (_, ip, _) in enumerate(ways):
            own = folder / f"server-{number}"
            own.mkdir()
            services.append(start_server(replace(pair.right, ip=ip), own))
        with capturing(pair.right, folder):
            devices = [
                start_device(client, service, PROFILE, COUNT, number, folder / f"{number}.jsonl")
                for number, ((client, _, _), service) in enumerate(zip(ways, services, strict=True))
            ]
            for device in devices:
                assert device.wait(60) == 0, device.last_words()
            wait_for(lambda: quiet(pair.left) and quiet(pair.right), "every connection to be over")
            for client, ip, mark in ways:
                mark_the_end(client, ip, mark)
            for name, argv in PROGRAMS.items():
                for (_, _, mark), iface in zip(ways, REFERENCES, strict=True):
                    if iface in argv or "any" in argv:
                        wait_for(functools.partial(holds, folder / name, mark), f"{name}: {mark.decode()}")
    return folder


def holds(path: Path, mark: bytes) -> bool:
    return mark in path.read_bytes()


def as_ethernet(path: Path) -> list[Packet]:
    """The packets of a classic capture in nanoseconds, what is cooked put back into an Ethernet frame."""
    data = path.read_bytes()
    link_type = int.from_bytes(data[20:24], "little")
    whole = path.with_suffix(".ethernet")
    whole.write_bytes(data[:20] + (1).to_bytes(4, "little") + data[24:])

    def unwrap(frame: bytes) -> bytes:
        if link_type == SLL:
            return bytes(6) + frame[6:12] + frame[14:]
        if link_type == SLL2:
            return bytes(6) + frame[12:18] + frame[:2] + frame[20:]
        return frame

    return [(time_ns, unwrap(frame)) for time_ns, frame in read_pcap(whole)]


def counted(lines: Iterable[Record]) -> list[tuple[object, ...]]:
    """Of each connection what is exact."""
    return sorted(
        (
            *(
                one[name]
                for name in ("src_ip", "src_port", "dst_ip", "dst_port", "s_mac", "tls", "reason", *EXACT)
            ),
        )
        for one in lines
    )


def on_the_wire(folder: Path, *ifaces: str) -> list[tuple[object, ...]]:
    """The same after the oracle, of what each interface's own capture holds."""
    return counted(one for iface in ifaces for one in records(read_pcap(folder / f"{iface}.pcap")))


def extract(path: Path) -> list[Record]:
    """The lines of `flowml extract`, TLS alone."""
    done = command(path)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", ["eth0.pcap", "96.pcap", "us.pcap"])
def test_of_one_interface(taken: Path, name: str) -> None:
    """Whole, cut at 96 bytes a packet (`tcpdump -s 96`), and in microseconds: as the oracle has it."""
    path = taken / name
    lines = extract(path)
    assert same(lines, records(read_pcap(path), capture=str(path)))
    assert counted(lines) == on_the_wire(taken, "eth0")
    assert len(lines) == COUNT
    assert all(one["d_bytes_sum"] > 2 * PROFILE.answer_bytes for one in lines)
    if name == "96.pcap":
        assert max(len(frame) for _, frame in read_pcap(path)) == 96


@pytest.mark.parametrize("name", ["any.pcap", "sll.pcap", "sll2.pcap"])
def test_of_any_interface(taken: Path, name: str) -> None:
    """`tcpdump -i any`, cooked v1 and v2: what each interface's own capture holds, with the senders' MACs."""
    path = taken / name
    lines = extract(path)
    assert same(lines, records(as_ethernet(path), capture=str(path)))
    assert counted(lines) == on_the_wire(taken, *REFERENCES)
    assert len(lines) == 3 * COUNT
    assert len({one["s_mac"] for one in lines}) == 3
    assert {one["s_mac"] for one in lines if one["src_ip"] == "127.0.0.1"} == {"00:00:00:00:00:00"}


@pytest.mark.parametrize("name", ["two.pcapng", "two-at-96.pcapng"])
def test_of_two_interfaces(taken: Path, name: str) -> None:
    """`dumpcap -i eth0 -i eth1`: one pcapng, and the connections of both."""
    path = taken / name
    assert "Number of interfaces in file: 2" in run(["capinfos", "-I", path])
    run(["editcap", "-F", "nsecpcap", path, path.with_suffix(".classic")])
    lines = extract(path)
    assert same(lines, records(read_pcap(path.with_suffix(".classic")), capture=str(path)))
    assert counted(lines) == on_the_wire(taken, "eth0", "eth1")
    assert len(lines) == 2 * COUNT


def test_gzipped(taken: Path, tmp_path: Path) -> None:
    """`gzip any.pcap`."""
    path = tmp_path / "any.pcap.gz"
    path.write_bytes(gzip.compress((taken / "any.pcap").read_bytes()))
    assert same(extract(path), records(as_ethernet(taken / "any.pcap"), capture=str(path)))
