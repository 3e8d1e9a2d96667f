"""Tools that make flows of what arrives at an interface, and how each says what it has missed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from abc import abstractmethod
from pathlib import Path

import orjson

from tests.bench.generator import CONCURRENT, PER_CONNECTION
from tests.bench.peer_tools import NF, python_of
from tests.lab import Pair, Process, end, wait_for
from tests.lab import run as run_in
from tests.tool import FLOWML

__all__ = ["LEAST", "TOOLS", "Argus", "Flowml", "Nfstream", "Softflowd", "Tool", "send"]

LEAST = 12_000.0
"""Segments a second, with which every climb begins, or a power of its step above."""

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

    @abstractmethod
    def command(self, iface: str, folder: Path) -> list[str]:
        """What is run in the namespace."""

    def missing(self, sent: int, process: Process, wire: Pair, folder: Path) -> int:
        """Ends it; the segments that were sent and are not in its records."""
        return sent - self.segments(process, wire, folder)

    def segments(self, process: Process, wire: Pair, folder: Path) -> int:
        """Ends it; the segments in its records."""
        raise NotImplementedError

    def is_ready(self, process: Process, wire: Pair) -> bool:
        """Whether it listens: a packet socket is there."""
        return len(wire.right.run(["cat", "/proc/net/packet"]).splitlines()) > 1


class Flowml(Tool):
    name = "flowml collect"
    first_step = 12
    gro = False

    def command(self, iface: str, folder: Path) -> list[str]:
        outfile = str(folder / "lines.jsonl")
        options = ["--direction", "ingress", "--filter", "tcp", "--outfile", outfile]
        return [str(FLOWML), "collect", iface, *options]

    def is_ready(self, process: Process, wire: Pair) -> bool:
        assert process.err is not None
        return "running as" in process.err.read_text()

    def segments(self, process: Process, wire: Pair, folder: Path) -> int:
        end(process, signal.SIGINT, timeout=60)
        lines = (folder / "lines.jsonl").read_bytes().splitlines()
        return sum(int(one["s_pkt_cnt"] + one["d_pkt_cnt"]) for one in map(orjson.loads, lines))


class Argus(Tool):
    name = "argus"
    first_step = 6

    def command(self, iface: str, folder: Path) -> list[str]:
        return ["argus", "-X", "-m", "-J", "-R", "-S", "86400", "-i", iface, "-w", str(folder / "argus")]

    def segments(self, process: Process, wire: Pair, folder: Path) -> int:
        end(process, signal.SIGINT, timeout=60)
        columns = ["-s", "spkts", "dpkts", "-", "tcp"]
        said = run_in(["ra", "-r", folder / "argus", "-n", "-u", "-p", "6", "-c", ",", *columns])
        return sum(int(number) for number in re.findall(r"\d+", said))


class Softflowd(Tool):
    name = "softflowd"
    first_step = 6

    def command(self, iface: str, folder: Path) -> list[str]:
        control = ["-c", str(folder / "control"), "-p", str(folder / "pid")]
        return ["softflowd", "-d", "-i", iface, "-m", "1000000", *control]

    def missing(self, sent: int, process: Process, wire: Pair, folder: Path) -> int:
        """By libpcap's account: the last packets wait in its buffer for more, and are not lost."""
        said = wire.right.run(["softflowctl", "-c", folder / "control", "statistics"])
        end(process, timeout=60)
        received = re.search(r"Packets received by libpcap: (\d+)", said)
        dropped = re.search(r"Packets dropped by libpcap: (\d+)", said)
        assert received, said
        assert dropped, said
        return sent - int(received[1]) + int(dropped[1])


class Nfstream(Tool):
    name = "nfstream"

    def command(self, iface: str, folder: Path) -> list[str]:
        return [str(python_of(NF)), "-u", "-c", NFSTREAM_SCRIPT, iface]

    def missing(self, sent: int, process: Process, wire: Pair, folder: Path) -> int:
        """By its own report; it counts what was dropped once a second, and only while more comes in."""

        def reports() -> list[dict[str, int]]:
            said = (folder / "out").read_text().splitlines()
            return [json.loads(line) for line in said if line.startswith("{")]

        send(wire, 2 * CONCURRENT * PER_CONNECTION, LEAST)
        before = len(reports())
        wait_for(lambda: len(reports()) > before + 1, "nfstream's report", process=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        last = reports()[-1]
        assert last["packets_processed"], last
        return last["packets_dropped_filtered_by_kernel"]


TOOLS: tuple[Tool, ...] = (Flowml(), Argus(), Softflowd(), Nfstream())


def send(wire: Pair, segments: int, per_second: float) -> float:
    """Sends so many; the rate that it came to."""
    sender = [sys.executable, "-m", "tests.bench.generator", wire.left.iface]
    said = json.loads(wire.left.run([*sender, str(segments), str(per_second)]))
    return segments / float(said["seconds"])
