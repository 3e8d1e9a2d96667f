"""Traffic for the laboratory: a server and devices, real TLS between real sockets.

Run as a program, this file is what runs in the namespaces: `serve` is the server, `device` a client.
Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import random
import socket
import ssl
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a program
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.lab import Host, Process, run, wait_for

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
    family = socket.AF_INET6 if ":" in args.ip else socket.AF_INET
    with socket.create_server((args.ip, args.port), family=family, backlog=512) as listener:
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
