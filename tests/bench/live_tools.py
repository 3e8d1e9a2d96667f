"""Tools that make flows of what arrives at an interface, and how each says what it has missed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import tempfile
from abc import abstractmethod
from pathlib import Path

import orjson

from tests.bench.generator import WHOLE
from tests.bench.live_wire import Wire
from tests.bench.peer_tools import NF, python_of
from tests.bench.processes import cpu_ns, members, wait_until_idle
from tests.lab import Process, end, wait_for
from tests.lab import run as run_in
from tests.tool import FLOWML

__all__ = ["LEAST", "TOOLS", "Argus", "Flowml", "Nfstream", "Running", "Softflowd", "Tool"]

LEAST = 12_000.0
"""Segments a second, with which every climb begins, or a power of its step above."""
ROOM = "16384"
"""Connections in flowml's table: far fewer than come in a step, so they cannot wait there for its end."""

NFSTREAM_SCRIPT = """
import sys
from nfstream import NFStreamer
for flow in NFStreamer(source=sys.argv[1], statistical_analysis=True, accounting_mode=1, n_meters=1,
                       performance_report=1):
    pass
"""


class Tool:
    """Something that makes flows of what arrives at an interface."""

    name: str
    first_step = 0
    gro = True
    """Whether GRO has to be on, for the veth to take the sender's frames; else an XDP program is there."""
    starts_anew = True
    """Once it has missed something: what it has of broken connections is out of the way then."""

    @abstractmethod
    def command(self, iface: str, folder: Path) -> list[str]:
        """What is run in the namespace."""

    @abstractmethod
    def missing(self, running: Running) -> int:
        """Of all that was sent since it was started, the segments that it does not know of. May end it."""

    def is_ready(self, running: Running) -> bool:
        """Whether it listens: a packet socket is there."""
        return len(running.wire.right.run(["cat", "/proc/net/packet"]).splitlines()) > 1


class Running:
    """A tool at the right end of the wire, on a core of its own; started when it is needed."""

    def __init__(self, tool: Tool, wire: Wire) -> None:
        self.tool, self.wire = tool, wire
        self.sent = 0
        """Segments, since it was started."""
        self._missed = 0
        self._process: Process | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="flowml-bench-")
        wire.set_gro(tool.gro)

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    def start(self) -> None:
        """If it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        self.folder.chmod(0o777)  # some give up root first
        for old in self.folder.iterdir():
            old.unlink()
        self.sent = self._missed = 0
        command = self.tool.command(self.wire.right.iface, self.folder)
        out, err = self.folder / "out", self.folder / "err"
        self._process = self.wire.right.popen(command, out=out, err=err)
        ready = f"{self.tool.name} to listen"
        wait_for(lambda: self.tool.is_ready(self), ready, process=self._process)
        for pid in members(self._process.pid):  # not before: nfstream counts its cores
            core = str(max(os.sched_getaffinity(0)))
            run_in(["taskset", "-a", "-c", "-p", core, str(pid)])

    def end(self) -> None:
        """At once, and what it started."""
        if self._process is None:
            return
        end(self._process, signal.SIGKILL)
        for pid in members(self._process.pid):  # nfstream's meters outlive it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process = None

    def close(self) -> None:
        self.end()
        self._folder.cleanup()

    def send(self, segments: int, per_second: float = 0) -> float:
        """Sends so many, and waits until it has worked them off; the rate that it came to."""
        rate = self.wire.send(segments, per_second)
        self.sent += segments
        wait_until_idle(self.process.pid)
        return rate

    def offer(self, segments: int, per_second: float) -> tuple[float, int]:
        """Sends so many; the rate that it came to, and how many of them are missing in its records."""
        self.start()
        rate = self.send(segments, per_second)
        missed = self.tool.missing(self)
        missing, self._missed = missed - self._missed, missed
        if missing and self.tool.starts_anew:
            self.end()
        return rate, missing

    def cpu_ns(self) -> int:
        return cpu_ns(self.process.pid)


class Flowml(Tool):
    name = "flowml collect"
    first_step = 22
    gro = False

    def command(self, iface: str, folder: Path) -> list[str]:
        outfile = str(folder / "lines.jsonl")
        options = ["--direction", "ingress", "--filter", "tcp", "--max-connections", ROOM]
        return [str(FLOWML), "collect", iface, *options, "--outfile", outfile]

    def is_ready(self, running: Running) -> bool:
        return "running as" in (running.folder / "err").read_text()

    def missing(self, running: Running) -> int:
        lines = (running.folder / "lines.jsonl").read_bytes().splitlines()
        found = map(orjson.loads, lines)
        return running.sent - sum(int(one["s_pkt_cnt"] + one["d_pkt_cnt"]) for one in found)


class Argus(Tool):
    name = "argus"
    first_step = 15

    def command(self, iface: str, folder: Path) -> list[str]:
        return ["argus", "-X", "-m", "-J", "-R", "-S", "86400", "-i", iface, "-w", str(folder / "argus")]

    def missing(self, running: Running) -> int:
        """Its records are whole when it has ended."""
        end(running.process, signal.SIGINT, timeout=60)
        columns = ["-s", "spkts", "dpkts", "-", "tcp"]
        said = run_in(["ra", "-r", running.folder / "argus", "-n", "-u", "-p", "6", "-c", ",", *columns])
        return running.sent - sum(int(number) for number in re.findall(r"\d+", said))


class Softflowd(Tool):
    name = "softflowd"
    first_step = 20

    def command(self, iface: str, folder: Path) -> list[str]:
        control = ["-c", str(folder / "control"), "-p", str(folder / "pid")]
        return ["softflowd", "-d", "-i", iface, "-m", "1000000", *control]

    def missing(self, running: Running) -> int:
        """By libpcap's account: the last packets wait in its buffer for more, and are not lost."""
        said = running.wire.right.run(["softflowctl", "-c", running.folder / "control", "statistics"])
        received = re.search(r"Packets received by libpcap: (\d+)", said)
        dropped = re.search(r"Packets dropped by libpcap: (\d+)", said)
        assert received, said
        assert dropped, said
        return running.sent - int(received[1]) + int(dropped[1])


class Nfstream(Tool):
    name = "nfstream"
    first_step = 10
    starts_anew = False  # that takes seconds, and its account is of drops alone

    def command(self, iface: str, folder: Path) -> list[str]:
        return [str(python_of(NF)), "-u", "-c", NFSTREAM_SCRIPT, iface]

    def missing(self, running: Running) -> int:
        """By the report after the next: it asks what was dropped once a second, and only while more comes
        in, and the next may have been made before."""

        def reports() -> list[dict[str, int]]:
            said = (running.folder / "out").read_text().splitlines()
            return [json.loads(line) for line in said if line.startswith("{")]

        before = len(reports())
        while len(reports()) < before + 2:
            running.wire.send(WHOLE, WHOLE / REPORT_S)
        last = reports()[-1]
        assert last["packets_processed"], last
        return last["packets_dropped_filtered_by_kernel"]


REPORT_S = 0.4
"""How long nfstream is sent something between two looks for its report."""

TOOLS: tuple[Tool, ...] = (Flowml(), Argus(), Softflowd(), Nfstream())
