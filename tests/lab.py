"""The laboratory: network namespaces, veth pairs, hosts and devices. Their traffic is in tests/traffic.py.

    veth_pair()            left <==wire==> right        silent: no address, no ARP, no IPv6; for replays
    two_hosts()            client <==wire==> server     the same with addresses; neighbours are static
    hosts_and_a_switch()   client <==wire==> switch <==wire==> server
    device_lab()           device \\
                           device --- switch <==wire==> server
                           device /

A device is a namespace of its own with its own MAC, address and TTL. Its interface is a macvlan on the
switch's end of the wire: what arrives at the server carries the device's own MAC, and the server's end
is a plain veth, where XDP runs native. The server's end is where flowml attaches.

Every namespace is named `flowml-<pid>-<n>-<role>`, and all of them go when the context ends, however it
ends, with every process in them. What a killed predecessor left is removed when the next laboratory
opens. `FLOWML_DEBUG_NS=1` keeps the namespaces (and lets old ones be), to look around in.

Only the standard library is needed, and root.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

IFACE = "eth0"
NETWORK_BITS = 24
SERVER_IP, CLIENT_IP = "10.66.0.1", "10.66.0.2"
SERVER_IP6, CLIENT_IP6 = "fd66::1", "fd66::2"
SERVER_MAC, CLIENT_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
NAMESPACE = re.compile(r"flowml-(?P<pid>\d+)-\d+-\w+")
OFFLOADS = {
    "tso": "tcp-segmentation-offload",
    "gso": "generic-segmentation-offload",
    "gro": "generic-receive-offload",
    "tx": "tx-checksumming",
    "rx": "rx-checksumming",
}
# Frames that wait when the receiver's ring (256 in a veth with XDP) is full. More than a packet socket
# may have under way at once, so that a replay is slowed down there instead of losing frames.
WIRE_QUEUE = 4096
SNIFF_BUFFER_KIB = 32 * 1024
LINES_SHOWN = 6  # of what a command that failed had to say

_serial = itertools.count(1)


class LabError(Exception):
    """The laboratory could not be set up, or something in it did not come to pass."""


class Process(subprocess.Popen[bytes]):
    """A command that runs in a namespace. What it says on standard error is in the file `err`, if any."""

    err: Path | None = None

    def last_words(self) -> str:
        """The last lines of its standard error, for a message."""
        return _tail(self.err.read_text()) if self.err else ""


# ---------------------------------------------------------------------------------- commands and waiting


def _inside(argv: Sequence[str | Path], ns: str | None) -> list[str]:
    """The command line that runs `argv` in a namespace. `ip` becomes the command: one process, one pid."""
    return [*(["ip", "netns", "exec", ns] if ns else []), *map(str, argv)]


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-LINES_SHOWN:])


def run(argv: Sequence[str | Path], ns: str | None = None, check: bool = True, timeout: float = 60) -> str:
    """Run a command to its end, in a namespace if one is named; return its standard output."""
    done = subprocess.run(_inside(argv, ns), capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(map(str, argv))}: exit code {done.returncode}: {_tail(done.stderr)}")
    return done.stdout


def wait_for(
    condition: Callable[[], object], what: str, timeout: float = 60, process: Process | None = None
) -> None:
    """Poll until the condition is true; fail when the time is up or the process it hangs on has ended."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            ended = f"its process ended with exit code {process.returncode}"
            raise LabError(f"waiting for {what}: {ended}\n{process.last_words()}".rstrip())
        if time.monotonic() > deadline:
            raise LabError(f"waiting for {what}: not within {timeout:g} s")
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM, timeout: float = 10) -> int:
    """End a process by its own pid and reap it; killed if it has not ended in time."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


# --------------------------------------------------------------------------------------------- namespaces


@dataclass(slots=True)
class Lab:
    """The namespaces of one laboratory and the processes started in them."""

    prefix: str = field(default_factory=lambda: f"flowml-{os.getpid()}-{next(_serial)}")
    namespaces: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def namespace(self, role: str, ttl: int = 64) -> str:
        """A new namespace with loopback up and IPv6 off: no router solicitation, no MLD."""
        name = f"{self.prefix}-{role}"
        self.namespaces.append(name)  # first: an interrupted `add` is cleaned up, too
        run(["ip", "netns", "add", name])
        settings = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
        run(["sysctl", "-eqw", *settings, f"net.ipv4.ip_default_ttl={ttl}"], name)
        run(["ip", "link", "set", "lo", "up"], name)
        return name

    def close(self) -> None:
        for process in reversed(self.processes):
            end(process)
        left = [] if _debugging() else [name for name in self.namespaces if not _remove(name)]
        if left:
            raise LabError(f"`ip netns delete` did not remove {', '.join(left)}")


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one interface of interest. `ip` is "" where the interface has no address."""

    ns: str
    mac: str
    ip: str = ""
    iface: str = IFACE
    lab: Lab = field(default_factory=Lab, repr=False, compare=False)

    def run(self, argv: Sequence[str | Path], check: bool = True, timeout: float = 60) -> str:
        """Run a command here to its end; return its standard output."""
        return run(argv, self.ns, check, timeout)

    def popen(self, argv: Sequence[str | Path], out: Path | None = None, err: Path | None = None) -> Process:
        """Start a command here, its output into files. It is ended with the laboratory at the latest.

        It is out of the terminal's reach: a Ctrl+C there ends the laboratory first, and that ends it.
        """
        with contextlib.ExitStack() as files:
            streams = [
                files.enter_context(path.open("wb")) if path else subprocess.DEVNULL for path in (out, err)
            ]
            process = Process(
                _inside(argv, self.ns),
                stdin=subprocess.DEVNULL,
                stdout=streams[0],
                stderr=streams[1],
                start_new_session=True,
            )
        process.err = err
        self.lab.processes.append(process)
        return process

    def received(self) -> int:
        """Packets that the interface has taken in so far, counted after the programs attached to it ran."""
        return int(self.run(["cat", f"/sys/class/net/{self.iface}/statistics/rx_packets"]))


def _debugging() -> bool:
    return os.environ.get("FLOWML_DEBUG_NS") == "1"


def _names() -> list[str]:
    """The namespaces of all laboratories, those of other processes too."""
    listed = (line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip())
    return [name for name in listed if NAMESPACE.fullmatch(name)]


def _remove(name: str) -> bool:
    """Remove a namespace and what still runs in it; whether it is gone, by whomever."""
    for pid in run(["ip", "netns", "pids", name], check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run(["ip", "netns", "delete", name], check=False)
    return name not in _names()


def _remove_stale() -> None:
    """Remove what a killed predecessor left: namespaces named for a pid that no longer lives."""
    for name in _names():
        match = NAMESPACE.fullmatch(name)
        if match and not Path("/proc", match["pid"]).exists():
            _remove(name)


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def _laboratory() -> Iterator[Lab]:
    """An empty laboratory; its teardown runs to the end whatever ends the body."""
    if os.geteuid() != 0:
        raise LabError("network namespaces need root")
    in_main = threading.current_thread() is threading.main_thread()
    # A SIGTERM would end the process past every `finally`: turn it into an exception, as SIGINT is one.
    takes_term = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if takes_term:
        signal.signal(signal.SIGTERM, _terminated)
    lab = Lab()
    try:
        if not _debugging():
            _remove_stale()
        yield lab
    finally:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            lab.close()
        finally:
            if takes_term:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


# ----------------------------------------------------------------------------------------- wires and hosts


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces and the wire between them."""

    left: Host
    right: Host


@dataclass(frozen=True, slots=True)
class Device:
    """What is given of a device: its name (letters and digits), MAC, address and TTL."""

    name: str
    mac: str
    ip: str
    ttl: int = 64


@dataclass(frozen=True, slots=True)
class DeviceLab:
    """The server, and the devices in the order in which they were given."""

    server: Host
    devices: tuple[Host, ...]


def _wire(left: Host, right: Host, mtu: int, offloads: bool) -> None:
    """A veth pair between two namespaces, its ends still down."""
    end_a = [left.iface, "netns", left.ns, "address", left.mac, "mtu", str(mtu)]
    end_b = [right.iface, "netns", right.ns, "address", right.mac, "mtu", str(mtu)]
    run(["ip", "link", "add", *end_a, "type", "veth", "peer", "name", *end_b])
    for host in (left, right):
        host.run(["tc", "qdisc", "replace", "dev", host.iface, "root", "pfifo", "limit", str(WIRE_QUEUE)])
        if not offloads:
            _switch_offloads_off(host)


def _switch_offloads_off(host: Host) -> None:
    host.run(["ethtool", "-K", host.iface, *itertools.chain(*((short, "off") for short in OFFLOADS))])
    lines = (line.partition(":") for line in host.run(["ethtool", "-k", host.iface]).splitlines())
    state = {name.strip(): value.strip() for name, _, value in lines}
    left_on = [name for name in OFFLOADS.values() if not state[name].startswith("off")]
    if left_on:
        raise LabError(f"{host.ns} {host.iface}: still on: {', '.join(left_on)}")


def _connect(host: Host, neighbours: Iterable[Host]) -> None:
    """Address, interface up, and a static neighbour entry for everyone it will talk to: no ARP."""
    if ":" in host.ip:
        settings = [f"net.ipv6.conf.{host.iface}.{name}" for name in ("disable_ipv6=0", "accept_ra=0")]
        host.run(["sysctl", "-eqw", *settings])
        host.run(["ip", "address", "add", f"{host.ip}/64", "dev", host.iface, "nodad"])
    else:
        host.run(["ip", "address", "add", f"{host.ip}/{NETWORK_BITS}", "dev", host.iface])
    host.run(["ip", "link", "set", host.iface, "up"])
    for other in neighbours:
        entry = [other.ip, "lladdr", other.mac, "dev", host.iface, "nud", "permanent"]
        host.run(["ip", "neighbour", "replace", *entry])


def _wait_for_carrier(*hosts: Host) -> None:
    def has_carrier(host: Host) -> bool:
        return host.run(["cat", f"/sys/class/net/{host.iface}/carrier"], check=False).strip() == "1"

    for host in hosts:
        wait_for(functools.partial(has_carrier, host), f"{host.ns}: link up")


@contextlib.contextmanager
def veth_pair(mtu: int = 1500, offloads: bool = True) -> Iterator[Pair]:
    """A wire with nothing on it but what is sent into it, for replays: both ends up, no address."""
    with _laboratory() as lab:
        left = Host(lab.namespace("left"), CLIENT_MAC, lab=lab)
        right = Host(lab.namespace("right"), SERVER_MAC, lab=lab)
        _wire(left, right, mtu, offloads)
        for host in (left, right):
            host.run(["ip", "link", "set", host.iface, "up", "arp", "off", "multicast", "off"])
        _wait_for_carrier(left, right)
        yield Pair(left, right)


@contextlib.contextmanager
def two_hosts(
    mtu: int = 1500,
    offloads: bool = True,
    client: Device = Device("client", CLIENT_MAC, CLIENT_IP),
    server: Device = Device("server", SERVER_MAC, SERVER_IP),
) -> Iterator[Pair]:
    """A client (left) and a server (right) on one wire, with addresses and static neighbours."""
    with _laboratory() as lab:
        left, right = (Host(lab.namespace(d.name, d.ttl), d.mac, d.ip, lab=lab) for d in (client, server))
        _wire(left, right, mtu, offloads)
        _connect(left, [right])
        _connect(right, [left])
        _wait_for_carrier(left, right)
        yield Pair(left, right)


@contextlib.contextmanager
def hosts_and_a_switch(version: int = 4) -> Iterator[Pair]:
    """A client without offloads (left) and a server with them (right), a switch between; IPv4 or IPv6.

    The server's large buffers are split where they leave the switch, as a network card would split them,
    so the client's end shows the wire.
    """
    with _laboratory() as lab:
        ips = (CLIENT_IP, SERVER_IP) if version == 4 else (CLIENT_IP6, SERVER_IP6)
        client = Host(lab.namespace("client"), CLIENT_MAC, ips[0], lab=lab)
        server = Host(lab.namespace("server"), SERVER_MAC, ips[1], lab=lab)
        switch = lab.namespace("switch")
        ports = [Host(switch, f"02:00:00:00:01:0{i}", iface=f"port{i}", lab=lab) for i in (1, 2)]
        _wire(client, ports[0], 1500, offloads=False)
        _wire(ports[1], server, 1500, offloads=True)
        _switch_offloads_off(ports[1])
        run(["ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"], switch)
        for port in ports:
            port.run(["ip", "link", "set", port.iface, "master", "bridge", "up"])
        run(["ip", "link", "set", "bridge", "up"], switch)
        _connect(client, [server])
        _connect(server, [client])
        _wait_for_carrier(client, server, *ports)
        yield Pair(client, server)


@contextlib.contextmanager
def device_lab(devices: Sequence[Device], mtu: int = 1500, offloads: bool = True) -> Iterator[DeviceLab]:
    """Many devices and a server on one wire.

    `offloads=False` holds for the wire: a macvlan always hands down large buffers, which the switch's
    end of the wire then has to split and checksum before they get onto it.
    """
    with _laboratory() as lab:
        switch = Host(lab.namespace("switch"), CLIENT_MAC, lab=lab)
        server = Host(lab.namespace("server"), SERVER_MAC, SERVER_IP, lab=lab)
        _wire(switch, server, mtu, offloads)
        switch.run(["ip", "link", "set", switch.iface, "up"])
        hosts = tuple(Host(lab.namespace(d.name, d.ttl), d.mac, d.ip, lab=lab) for d in devices)
        for host in hosts:
            card = [host.iface, "link", switch.iface, "netns", host.ns, "address", host.mac]
            switch.run(["ip", "link", "add", *card, "type", "macvlan", "mode", "private"])
            _connect(host, [server])
        _connect(server, hosts)
        _wait_for_carrier(server, *hosts)
        yield DeviceLab(server, hosts)


def replay(wire: Pair, path: Path, packets: int, options: Sequence[str] = ("--topspeed",)) -> None:
    """Send a capture of so many packets into the left end, until the right end has taken them all in."""
    before = wire.right.received()
    wire.left.run(["tcpreplay", "--quiet", *options, "-i", wire.left.iface, path], timeout=300)
    wait_for(lambda: wire.right.received() >= before + packets, "the packets to arrive", timeout=60)


@contextlib.contextmanager
def sniff(host: Host, path: Path) -> Iterator[Process]:
    """Capture what passes the host's interface, both ways, whole packets, none lost.

    Packets get into the file within a moment, not at once: wait for what is expected before leaving.
    """
    log = path.with_suffix(".log")
    # Not --immediate-mode: its ring has slots as large as the largest packet, so only a few of them.
    options = ["-U", "-B", str(SNIFF_BUFFER_KIB), "-Z", "root"]
    process = host.popen(["tcpdump", "-i", host.iface, "-w", path, *options], err=log)
    try:
        wait_for(lambda: b"listening on" in log.read_bytes(), f"tcpdump on {host.ns}", process=process)
        yield process
    finally:
        end(process, signal.SIGINT)
    if b"\n0 packets dropped by kernel" not in log.read_bytes():
        raise LabError(f"tcpdump on {host.ns} lost packets\n{process.last_words()}")
