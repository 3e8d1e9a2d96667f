"""A capture over a wire: tcpreplay at one end of a veth pair, `flowml collect` at the other.

The wire is in a network namespace of this process's own, which ends with it, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from collector.compare import Tally
from collector.config import DAY_MS
from collector.errors import KernelError
from collector.features import NAMES, matrix
from collector.lines import Origin, record_lines
from collector.records import FATES, joined
from collector.replay import CLOCK_OFFSET_NS, Limits, Packet, Replay

__all__ = ["TOLERANCE_S", "Stage", "Tape", "require_tools"]

TOLERANCE_S = 0.02
"""How far a packet's time in the program may be from its time as it went onto the wire, seconds.

On an idle machine it is well below a millisecond."""

_SECONDS = 2.0
"""How long the replay of a capture takes at the most, unless that is too fast for the wire."""
_PACKETS_A_SECOND = 20_000
_ATTEMPTS = 3
_MTU = 1500
_SNAP = 14 + _MTU
_NS = 1_000_000_000
_SILENCE_S = 0.05
_HEARING_BYTES = 128 << 20
_ETH_P_ALL, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _STAMP_ROOM = (
    0x0003,
    33,
    35,
    64,
)  # <linux/if_ether.h>, <asm/socket.h>
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_SENDER, _RECEIVER = "flowml0", "flowml1"
_QUEUE = 4096  # frames that wait, so that a replay is slowed down instead of losing them
_TIMES = ("dur", "s_iat_mean", "d_iat_mean", "tcp_rtt", "syn_ack", "ack_dat")
_RATES = ("s_load", "d_load")
_IDENTITY = ("src_ip", "src_port", "dst_ip", "dst_port", "s_mac", "tls", "reason")


def require_tools() -> None:
    """Refuses before anything is done, when the replay's tool is missing."""
    if shutil.which("tcpreplay") is None:
        raise KernelError(
            "tcpreplay is not installed, which replays captures over a wire: install it, or pass --no-live"
        )


class Tape:
    """Packets on their way to a replay: an Ethernet capture whose clock does not run backwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("wb")
        self._file.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, _SNAP, 1))
        self.packets = 0
        self.first_ns = self.last_ns = 0

    def write(self, packet: Packet) -> None:
        """Takes a packet of a capture, unless its link header is cut short."""
        frame = packet.on_ethernet()
        if frame:
            self.add(packet.time_ns, frame)

    def add(self, time_ns: int, frame: bytes) -> None:
        """Takes a frame; what is longer than the wire takes is cut, which the core does not look at."""
        frame = frame[:_SNAP]
        self.last_ns = max(self.last_ns, time_ns)
        if not self.packets:
            self.first_ns = self.last_ns
        self.packets += 1
        self._file.write(struct.pack("=IIII", *divmod(self.last_ns, _NS), len(frame), len(frame)) + frame)

    def close(self) -> None:
        self._file.close()

    @property
    def seconds(self) -> float:
        """From the first packet to the last."""
        return (self.last_ns - self.first_ns) / _NS


class _Ear(threading.Thread):
    """Writes down what goes onto the wire, with the time that the kernel gives each packet there."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.tape = Tape(path)
        self._enough = threading.Event()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _HEARING_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(_SILENCE_S)
        self._socket.bind((_SENDER, 0))

    def run(self) -> None:
        with self._socket:
            while True:
                try:
                    frame, stamps, _, address = self._socket.recvmsg(_SNAP, _STAMP_ROOM)
                except TimeoutError:
                    if self._enough.is_set():
                        break
                    continue
                if address[2] == socket.PACKET_OUTGOING and stamps:
                    seconds, ns = struct.unpack("=qq", stamps[0][2])
                    self.tape.add(seconds * _NS + ns, frame)
        self.tape.close()

    def stop(self) -> Tape:
        """What was heard, once nothing more comes."""
        self._enough.set()
        self.join()
        return self.tape


class Stage:
    """The wire, in a network namespace that this process moves into for good."""

    def __init__(self, ip: str) -> None:
        self._ip = ip
        self.fastest = 1.0
        """How many times as fast as they were captures were replayed, at the most."""
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flowml-verify-")))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            raise KernelError(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")  # nothing is to speak by itself
        _lay_wire()
        self._config = self.folder / "never.toml"
        self._config.write_text(
            f"[conntrack]\ntcp_establish_timeout = {DAY_MS}\ntcp_inactivity_timeout = {DAY_MS}\n"
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def compare(self, name: str, tape: Tape, limits: Limits, tally: Tally) -> None:
        """Replays a tape, and compares what was collected with what the CPU makes of the same tape.

        No timeout ends a connection on either side: the replay is faster than the capture was.

        Raises
        ------
        KernelError
            The wire loses packets, or a command on the way fails.
        """
        if not tape.packets:
            return
        expected = _on_cpu(tape, limits)
        speed = _speed(tape)
        for _ in range(_ATTEMPTS):  # a busy machine loses packets, or holds them up
            found = Tally()
            records, seen, heard = self._replay(tape, speed)
            _compare(name, expected, _on_cpu(heard, limits), records, found)
            self.fastest = max(self.fastest, speed)
            if seen == tape.packets and not found.differ:
                break
            speed /= 2
        if seen != tape.packets:
            raise KernelError(
                f"{name}: {seen} of {tape.packets} packets came over the wire: this machine is too busy for "
                "a replay; try again, or pass --no-live"
            )
        tally.add(found)

    def _replay(self, tape: Tape, speed: float) -> tuple[list[dict[str, Any]], int, Tape]:
        """The records that were collected, how many packets came, and what was heard on the wire."""
        outfile = self.folder / "wire.jsonl"
        outfile.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-I", "-m", "collector", "collect", _RECEIVER, "--direction", "ingress"),
            *("--filter", "tcp", "--ip", self._ip),
            *("--config", str(self._config), "--outfile", str(outfile)),
        ]
        # As if root had typed it: whoever is behind sudo may not enter the folder.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SUDO_")}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        ) as collect:
            assert collect.stderr is not None
            said: list[str] = []
            for raw in collect.stderr:
                said.append(raw.decode(errors="replace").strip())
                if said[-1].startswith("running as"):
                    break
            else:
                raise KernelError(f"flowml collect does not start: {said[-1] if said else 'it says nothing'}")
            ear = _Ear(self.folder / "heard.pcap")
            ear.start()
            try:
                sent = subprocess.run(
                    [
                        *("tcpreplay", "--quiet", "--intf1", _SENDER, "--multiplier", f"{speed:.6f}"),
                        str(tape.path),
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                )
            finally:
                heard = ear.stop()
                collect.send_signal(signal.SIGINT)
                said += collect.stderr.read().decode(errors="replace").splitlines()
        if sent.returncode:
            raise KernelError(f"tcpreplay failed: {' '.join(sent.stderr.split()) or sent.returncode}")
        if collect.returncode:
            raise KernelError(f"flowml collect failed: {said[-1]}")
        return [json.loads(line) for line in outfile.read_text().splitlines()], _packets_of(said), heard


def _lay_wire() -> None:
    """A veth pair, up, without addresses."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("add", ifname=_SENDER, kind="veth", peer={"ifname": _RECEIVER})
        for name in (_SENDER, _RECEIVER):
            (index,) = ip.link_lookup(ifname=name)
            ip.link("set", index=index, mtu=_MTU, state="up")
            ip.tc("add", "pfifo", index, limit=_QUEUE)


def _speed(tape: Tape) -> float:
    """How many times as fast as it was: not for longer than `_SECONDS`, but no faster than the wire takes."""
    if not tape.seconds:
        return 1.0
    return min(max(1.0, tape.seconds / _SECONDS), _PACKETS_A_SECOND * tape.seconds / tape.packets)


def _packets_of(said: list[str]) -> int:
    """The packets that `collect` has seen, of which its summary names every fate."""
    for line in said:
        if line.startswith(f"{_RECEIVER}: ") and "attached" not in line:
            parts = (part.split() for part in line.partition(": ")[2].split(", "))
            return sum(int(number) for name, number in parts if name in FATES)
    return 0


def _on_cpu(tape: Tape, limits: Limits) -> list[dict[str, Any]]:
    """The records of the tape without timeouts."""
    never = limits._replace(tcp_establish_timeout=DAY_MS, tcp_inactivity_timeout=DAY_MS, tls_only=False)
    with tape.path.open("rb") as file, Replay(file.fileno(), never) as replay:
        rows = joined(replay.batches())
        if replay.trouble:
            raise KernelError(f"{tape.path}: {replay.trouble}")
    lines = record_lines(rows, Origin(CLOCK_OFFSET_NS), matrix=matrix(rows))
    return [json.loads(line) for line in lines.splitlines()]


def _compare(
    name: str,
    sent: list[dict[str, Any]],
    heard: list[dict[str, Any]],
    collected: list[dict[str, Any]],
    tally: Tally,
) -> None:
    """What was collected has the counts of what was sent, exactly, and the times at which it was heard."""
    ours, theirs, times = (sorted(records, key=_place) for records in (collected, sent, heard))
    tally.connections += len(ours)
    for one, other, timed in zip_longest(ours, theirs, times):
        if one is None or other is None or timed is None or not _same(one, other, timed, tally):
            tally.differ += 1
            sides = (("collected", one), ("sent", other), ("heard", timed))
            tally.first = tally.first or "\n".join(
                [f"{name}:", *(f"{side + ':':<10} {json.dumps(record)}" for side, record in sides)]
            )


def _place(record: dict[str, Any]) -> tuple[object, ...]:
    return tuple(record[name] for name in ("src_ip", "src_port", "dst_ip", "dst_port", "start"))


def _same(ours: dict[str, Any], sent: dict[str, Any], heard: dict[str, Any], tally: Tally) -> bool:
    same = all(ours[name] == sent[name] for name in _IDENTITY)
    for feature in NAMES:
        if feature in _RATES:  # bytes over a time, both of which are compared by themselves
            continue
        one, other = ours[feature], (heard if feature in _TIMES else sent)[feature]
        if (one is None) != (other is None):
            same = False
        if one is None or other is None:
            continue
        tally.compared[feature] += 1
        tally.largest[feature] = max(tally.largest[feature], abs(one - other))
        same = same and abs(one - other) <= (TOLERANCE_S if feature in _TIMES else 0)
    return same
