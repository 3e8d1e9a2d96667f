"""The laboratory is what the live tests stand on, so it is tested itself: silence, identity, cleaning up."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import lab, traffic

ROOT = Path(__file__).resolve().parents[1]
DEVICES = (
    lab.Device("lamp", "02:00:00:00:00:11", "10.66.0.11", ttl=255),
    lab.Device("radio", "02:00:00:00:00:12", "10.66.0.12", ttl=128),
    lab.Device("clock", "02:00:00:00:00:13", "10.66.0.13", ttl=64),
)
FIN, RST = 0x01, 0x04
PCAP_HEADER, PCAP_RECORD = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
ETHERNET, LINKTYPE_ETHERNET = 14, 1
HOLDER = """
import signal
from tests import lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with lab.veth_pair() as pair:
    sleeper = pair.left.popen(["sleep", "600"])
    print(pair.left.ns, pair.right.ns, sleeper.pid, flush=True)
    signal.pause()
"""


def frames(path: Path) -> list[bytes]:
    """The whole frames that a capture holds so far."""
    data, at, found = path.read_bytes(), PCAP_HEADER.size, []
    while at + PCAP_RECORD.size <= len(data):
        size = PCAP_RECORD.unpack_from(data, at)[2]
        at += PCAP_RECORD.size
        if at + size <= len(data):
            found.append(data[at : at + size])
        at += size
    return found


def write_capture(path: Path, content: list[bytes]) -> None:
    head = PCAP_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, LINKTYPE_ETHERNET)
    path.write_bytes(
        head + b"".join(PCAP_RECORD.pack(0, i, len(f), len(f)) + f for i, f in enumerate(content))
    )


def tcp_flags(frame: bytes) -> int:
    header = ETHERNET + (frame[ETHERNET] & 0x0F) * 4
    return frame[header + 13]


def existing(*names: str) -> list[str]:
    listed = {line.split()[0] for line in lab.run(["ip", "netns", "list"]).splitlines()}
    return [name for name in names if name in listed]


def alive(pid: int) -> bool:
    """Whether the process runs: one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def holder(folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], list[str], int]]:
    """A process of its own that holds a laboratory: the process, its namespaces, a pid in one of them."""
    out = folder / "holder.out"
    with out.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdout=stream, cwd=ROOT, env=os.environ | environment
        )
    try:
        lab.wait_for(lambda: out.read_bytes().endswith(b"\n"), "the laboratory of the other process")
        left, right, pid = out.read_text().split()
        yield process, [left, right], int(pid)
    finally:
        lab.end(process)


def converse(
    site: lab.Pair, folder: Path, profile: traffic.Profile, count: int, tls: bool = True
) -> list[bytes]:
    """Make connections from left to right; return the frames that the right end saw."""
    service = traffic.start_server(site.right, folder, tls=tls)
    capture, out = folder / "seen.pcap", folder / "device.out"
    with lab.sniff(site.right, capture):
        device = traffic.start_device(site.left, service, profile, count, 0, out)
        lab.wait_for(lambda: device.poll() is not None, "the device to finish", 30)
        assert device.returncode == 0, device.last_words()
        lab.wait_for(lambda: traffic.quiet(site.right), "the last connection to close")
        closing = FIN if profile.close == "fin" else RST
        enough = 2 * count if profile.close == "fin" else count
        lab.wait_for(lambda: sum(bool(tcp_flags(f) & closing) for f in frames(capture)) >= enough, "the ends")
    assert len(traffic.connections(out)) == count
    return frames(capture)


def test_wait_for_says_what_did_not_happen() -> None:
    """A condition that stays false ends in an error that names it."""
    with pytest.raises(lab.LabError, match=r"waiting for the moon: not within 0\.1 s"):
        lab.wait_for(lambda: False, "the moon", timeout=0.1)


def test_a_profile_closes_with_fin_or_rst() -> None:
    """Any other way to close is refused."""
    with pytest.raises(ValueError, match="fin or rst"):
        traffic.Profile(request_bytes=100, answer_bytes=100, close="shrug")


@pytest.mark.live
def test_namespaces_are_gone_afterwards() -> None:
    """The context takes its namespaces and its processes with it."""
    with lab.veth_pair() as pair:
        names = [pair.left.ns, pair.right.ns]
        sleeper = pair.left.popen(["sleep", "600"])
        assert existing(*names) == names

    assert existing(*names) == []
    assert sleeper.returncode == -signal.SIGTERM


@pytest.mark.live
def test_namespaces_are_gone_after_an_exception() -> None:
    """An exception in the body comes through, and the namespaces go all the same."""
    names: list[str] = []

    def fail_inside() -> None:
        with lab.device_lab(DEVICES) as site:
            names.extend([site.server.ns, *(host.ns for host in site.devices)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()

    assert len(names) == 1 + len(DEVICES)
    assert existing(*names) == []


@pytest.mark.live
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_namespaces_are_gone_after_a_signal(tmp_path: Path, signum: signal.Signals) -> None:
    """Ctrl+C and a polite kill of the process that holds a laboratory leave nothing behind."""
    with holder(tmp_path) as (process, names, pid):
        assert existing(*names) == names
        process.send_signal(signum)
        process.wait(timeout=20)

        assert existing(*names) == []
        assert not alive(pid)


@pytest.mark.live
def test_a_killed_predecessor_is_cleaned_up_after(tmp_path: Path) -> None:
    """What a killed process left, namespaces and processes, goes when the next laboratory opens."""
    with holder(tmp_path) as (process, names, pid):
        process.kill()
        process.wait(timeout=20)
        assert existing(*names) == names
        assert alive(pid)

        with lab.veth_pair():
            assert existing(*names) == []
            lab.wait_for(lambda: not alive(pid), "the sleeper to end")


@pytest.mark.live
def test_a_living_neighbour_is_left_alone(tmp_path: Path) -> None:
    """Opening a laboratory touches no laboratory of a process that lives."""
    with holder(tmp_path) as (_, names, pid), lab.veth_pair():
        assert existing(*names) == names
        assert alive(pid)


@pytest.mark.live
def test_debugging_keeps_the_namespaces(tmp_path: Path) -> None:
    """With FLOWML_DEBUG_NS=1 the namespaces stay, until a laboratory without it opens."""
    with holder(tmp_path, FLOWML_DEBUG_NS="1") as (process, names, pid):
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        assert existing(*names) == names
        assert not alive(pid)

    with lab.veth_pair():
        assert existing(*names) == []


@pytest.mark.live
def test_a_pair_carries_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    """A replay comes out at the other end frame by frame; no ARP, no IPv6, nothing of the kernel's own."""
    payload = [
        bytes.fromhex("020000000001020000000002") + b"\x08\x00" + bytes([n]) * (size - ETHERNET)
        for n, size in enumerate((60, 601, 3 * 997))
    ]
    write_capture(tmp_path / "sent.pcap", payload)
    seen = tmp_path / "seen.pcap"
    with lab.veth_pair(mtu=3000) as pair, lab.sniff(pair.right, seen):
        pair.left.run(["tcpreplay", "-i", pair.left.iface, "--topspeed", tmp_path / "sent.pcap"])
        lab.wait_for(lambda: len(frames(seen)) >= len(payload), "the frames")

    assert frames(seen) == payload


@pytest.mark.live
def test_the_server_sees_each_device_as_itself(tmp_path: Path) -> None:
    """Source MAC, address and TTL of every frame are the device's; every frame is TCP, so no ARP."""
    seen = tmp_path / "seen.pcap"
    profile = traffic.Profile(request_bytes=700, answer_bytes=5000, requests=3, parallel=2, noise=0.2)
    with lab.device_lab(DEVICES) as site, lab.sniff(site.server, seen):
        service = traffic.start_server(site.server, tmp_path)
        running = [
            traffic.start_device(host, service, profile, 5, seed, tmp_path / f"{seed}.out")
            for seed, host in enumerate(site.devices)
        ]
        lab.wait_for(lambda: all(p.poll() is not None for p in running), "the devices to finish", 30)
        assert [p.returncode for p in running] == [0, 0, 0], [p.last_words() for p in running]
        lab.wait_for(lambda: traffic.quiet(site.server), "the last connection to close")
        fins = 2 * 5 * len(DEVICES)
        lab.wait_for(lambda: sum(bool(tcp_flags(f) & FIN) for f in frames(seen)) >= fins, "every FIN")

    kinds = {(f[12:14].hex(), f[ETHERNET + 9]) for f in frames(seen)}
    sent = {(f[6:12].hex(":"), ".".join(map(str, f[26:30])), f[ETHERNET + 8]) for f in frames(seen)}
    assert kinds == {("0800", 6)}
    assert sent == {(d.mac, d.ip, d.ttl) for d in DEVICES} | {(lab.SERVER_MAC, lab.SERVER_IP, 64)}


@pytest.mark.live
@pytest.mark.parametrize("offloads", [True, False])
def test_offloads_are_what_was_asked_for(tmp_path: Path, offloads: bool) -> None:
    """With the kernel's defaults large buffers cross the wire whole; without offloads none is too long."""
    profile = traffic.Profile(request_bytes=300_000, answer_bytes=300_000)
    with lab.two_hosts(offloads=offloads) as site:
        seen = converse(site, tmp_path, profile, count=2)

    longest = max(len(frame) for frame in seen)
    assert (longest > ETHERNET + 1500) == offloads


@pytest.mark.live
def test_behind_a_switch_the_client_sees_the_wire(tmp_path: Path) -> None:
    """A large answer leaves the server in large buffers and arrives in segments of at most the MTU."""
    profile = traffic.Profile(request_bytes=400, answer_bytes=300_000)
    arrived = tmp_path / "arrived.pcap"
    with lab.hosts_and_a_switch() as site, lab.sniff(site.left, arrived):
        features = site.right.run(["ethtool", "-k", site.right.iface])
        sent = converse(site, tmp_path, profile, count=2)
        lab.wait_for(lambda: sum(bool(tcp_flags(f) & FIN) for f in frames(arrived)) >= 4, "every FIN")

    assert "tcp-segmentation-offload: on" in features
    assert max(len(frame) for frame in sent) > ETHERNET + 1500
    assert max(len(frame) for frame in frames(arrived)) == ETHERNET + 1500


@pytest.mark.live
@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("close", ["fin", "rst"])
def test_connections_end_as_the_profile_says(tmp_path: Path, close: str, tls: bool) -> None:
    """FIN from both sides and no RST, or one RST and no FIN; under TLS and without."""
    count = 7
    profile = traffic.Profile(request_bytes=400, answer_bytes=30_000, requests=2, pause_ms=5, close=close)
    with lab.two_hosts() as site:
        flags = [tcp_flags(frame) for frame in converse(site, tmp_path, profile, count, tls)]

    ends = (sum(bool(f & FIN) for f in flags), sum(bool(f & RST) for f in flags))
    assert ends == ((2 * count, 0) if close == "fin" else (0, count))
