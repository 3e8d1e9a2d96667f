"""The laboratory: network namespaces, veth pairs, devices, and real TLS between real sockets.

    veth_pair()    left <==wire==> right            silent: no address, no ARP, no IPv6; for replays
    two_hosts()    client <==wire==> server         the same with addresses; neighbours are static
    device_lab()   device \\
                   device --- switch <==wire==> server
                   device /

A device is a namespace of its own with its own MAC, address and TTL. Its interface is a macvlan on the
switch's end of the wire: what arrives at the server carries the device's own MAC, and the server's end
is a plain veth, where XDP runs native. The server's end is where flowml attaches.

Every namespace is named `flowml-<pid>-<n>-<role>`, and all of them go when the context ends, however it
ends, with every process in them. What a killed predecessor left is removed when the next laboratory
opens. `FLOWML_DEBUG_NS=1` keeps the namespaces (and lets old ones be), to look around in.

Run as a program, this file is what runs in the namespaces: `serve` is the server, `device` a client.
Only the standard library is needed, and root.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

__all__ = [
    "CLIENT_IP",
    "CLIENT_MAC",
    "SERVER_IP",
    "SERVER_MAC",
    "Connection",
    "Device",
    "DeviceLab",
    "Host",
    "LabError",
    "Pair",
    "Process",
    "Profile",
    "Service",
    "connections",
    "device_lab",
    "end",
    "quiet",
    "run",
    "sniff",
    "start_device",
    "start_server",
    "two_hosts",
    "veth_pair",
    "wait_for",
]

IFACE = "eth0"
NETWORK_BITS = 24
SERVER_IP, CLIENT_IP = "10.66.0.1", "10.66.0.2"
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
    condition: Callable[[], object], what: str, timeout: float = 10, process: Process | None = None
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


# -------------------------------------------------------------------------------------- server and devices
#
# A request is a header, three numbers, and filler; the answer is filler. All sizes are before TLS.

REQUEST = struct.Struct("!III")  # bytes of the request after the header, bytes to answer, wait before in us
SOCKET_TIMEOUT_S = 20.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


@dataclass(frozen=True, slots=True)
class Profile:
    """How a device behaves. Each number is what is typical; every draw deviates from it by `noise`."""

    request_bytes: int
    answer_bytes: int
    delay_ms: float = 0.0
    """The server's delay before each answer."""
    requests: float = 1.0
    """Requests on one connection: 1 is a short connection, more keep it open."""
    pause_ms: float = 0.0
    """Between an answer and the next request on the same connection."""
    rest_ms: float = 0.0
    """Between two connections."""
    parallel: int = 1
    """Connections open at once."""
    close: str = "fin"
    """How the device ends a connection: "fin" or "rst"."""
    noise: float = 0.0
    """Standard deviation of the logarithm of every draw: 0.2 is roughly one fifth up or down."""

    def __post_init__(self) -> None:
        if self.close not in ("fin", "rst"):
            raise ValueError(f"close is fin or rst, not {self.close!r}")

    def draw(self, typical: float, rng: random.Random) -> float:
        return typical * math.exp(rng.gauss(0.0, self.noise)) if self.noise else typical


@dataclass(frozen=True, slots=True)
class Service:
    """A running server. `ca` is the certificate that clients verify; None where it speaks plain TCP."""

    ip: str
    port: int
    ca: Path | None
    process: Process


def start_server(host: Host, folder: Path, port: int = 443, tls: bool = True) -> Service:
    """Start the server in the host's namespace; its certificate and log go to the folder."""
    argv: list[str | Path] = [sys.executable, __file__, "serve", "--ip", host.ip, "--port", str(port)]
    cert = folder / "cert.pem"
    if tls:
        key = folder / "key.pem"
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
        name = ["-subj", "/CN=flowml lab", "-addext", f"subjectAltName=IP:{host.ip}"]
        run(["openssl", "req", "-x509", *kind, *name, "-keyout", key, "-out", cert])
        argv += ["--cert", cert, "--key", key]
    ready, log = folder / "server.out", folder / "server.err"
    process = host.popen(argv, ready, log)
    wait_for(lambda: b"ready" in ready.read_bytes(), f"the server ({log})", process=process)
    return Service(host.ip, port, cert if tls else None, process)


def start_device(host: Host, service: Service, profile: Profile, count: int, seed: int, out: Path) -> Process:
    """Start a device that makes `count` connections and ends with exit code 0 if all went well.

    One line of JSON for each connection goes to `out`, see `connections`; complaints go beside it, to
    a file that ends in `.err`.
    """
    where: list[str | Path] = ["--ip", service.ip, "--port", str(service.port)]
    if service.ca:
        where += ["--ca", service.ca]
    what = ["--profile", json.dumps(dataclasses.asdict(profile)), "--count", str(count), "--seed", str(seed)]
    argv = [sys.executable, __file__, "device", *where, *what]
    return host.popen(argv, out, out.with_suffix(".err"))


@dataclass(frozen=True, slots=True)
class Connection:
    """What a device says of one of its connections."""

    port: int
    """The device's own port."""
    requests: int
    sent: int
    """Bytes before TLS."""
    received: int
    """Bytes before TLS."""
    close: str


def connections(out: Path) -> list[Connection]:
    """The connections that a device has made so far, from its output file."""
    whole_lines, _, _ = out.read_text().rpartition("\n")
    return [Connection(**json.loads(line)) for line in whole_lines.splitlines()]


def quiet(host: Host) -> bool:
    """Whether every connection that the host took part in is over, seen from its side."""
    return not host.run(["ss", "-Htan", "exclude", "listening", "exclude", "time-wait"]).strip()


# ------------------------------------------------------------------------- what runs inside the namespaces


def _receive(sock: socket.socket, size: int) -> int:
    """Read exactly `size` bytes and forget them; fewer only if the other side has closed."""
    got = 0
    while got < size and (chunk := sock.recv(min(size - got, 1 << 16))):
        got += len(chunk)
    return got


def _header(sock: socket.socket) -> bytes:
    data = b""
    while len(data) < REQUEST.size and (chunk := sock.recv(REQUEST.size - len(data))):
        data += chunk
    return data


def _hang_up(sock: socket.socket) -> None:
    """Close with FIN; under TLS the two sides say goodbye first, so that no byte is left unread.

    Unread bytes would turn the FIN into a RST.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock = sock.unwrap()
    sock.shutdown(socket.SHUT_WR)
    sock.close()


def _answer(client: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serve one connection until the client ends it, in whichever way."""
    client.settimeout(SOCKET_TIMEOUT_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock = context.wrap_socket(client, server_side=True) if context else client
        with sock:
            while len(header := _header(sock)) == REQUEST.size:
                body, answer, wait_us = REQUEST.unpack(header)
                _receive(sock, body)
                time.sleep(wait_us / 1e6)
                sock.sendall(bytes(answer))
            _hang_up(sock)


def _serve(args: argparse.Namespace) -> None:
    context = None
    if args.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.cert, args.key)
    with socket.create_server((args.ip, args.port), backlog=512) as listener:
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_answer, args=(client, context), daemon=True).start()


def _converse(
    profile: Profile, rng: random.Random, server: tuple[str, int], context: ssl.SSLContext | None
) -> Connection:
    """Make one connection as the profile says."""
    sent = received = 0
    requests = max(1, round(profile.draw(profile.requests, rng)))
    raw = socket.create_connection(server, SOCKET_TIMEOUT_S)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port: int = raw.getsockname()[1]
    with raw, context.wrap_socket(raw, server_hostname=server[0]) if context else raw as sock:
        for turn in range(requests):
            if turn:
                time.sleep(profile.draw(profile.pause_ms, rng) / 1e3)
            body = max(0, round(profile.draw(profile.request_bytes, rng)) - REQUEST.size)
            answer = round(profile.draw(profile.answer_bytes, rng))
            wait_us = round(profile.draw(profile.delay_ms, rng) * 1e3)
            sock.sendall(REQUEST.pack(body, answer, wait_us) + bytes(body))
            sent += REQUEST.size + body
            got = _receive(sock, answer)
            received += got
            if got < answer:
                raise ConnectionError(f"port {port}: the server closed within an answer of {answer} bytes")
        if profile.close == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()
        else:
            _hang_up(sock)
    return Connection(port, requests, sent, received, profile.close)


def _behave(args: argparse.Namespace) -> None:
    profile = Profile(**json.loads(args.profile))
    context = ssl.create_default_context(cafile=args.ca) if args.ca else None
    turns = iter(range(args.count))

    def worker(number: int) -> None:
        rng = random.Random(f"{args.seed}-{number}")
        for _ in turns:
            connection = _converse(profile, rng, (args.ip, args.port), context)
            sys.stdout.write(json.dumps(dataclasses.asdict(connection)) + "\n")
            sys.stdout.flush()
            time.sleep(profile.draw(profile.rest_ms, rng) / 1e3)

    with ThreadPoolExecutor(profile.parallel) as pool:
        for done in [pool.submit(worker, number) for number in range(profile.parallel)]:
            done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description="What runs inside the laboratory's namespaces.")
    parts = parser.add_subparsers(required=True)
    serve = parts.add_parser("serve", help="answer requests; plain TCP without --cert")
    serve.add_argument("--cert")
    serve.add_argument("--key")
    serve.set_defaults(does=_serve)
    device = parts.add_parser("device", help="make connections; plain TCP without --ca")
    device.add_argument("--ca")
    device.add_argument("--profile", required=True, help="a Profile as JSON")
    device.add_argument("--count", type=int, required=True, help="connections to make")
    device.add_argument("--seed", type=int, default=0)
    device.set_defaults(does=_behave)
    for part in (serve, device):
        part.add_argument("--ip", required=True, help="the server's address")
        part.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    args.does(args)


if __name__ == "__main__":
    main()
