"""The highest rate at which nothing is lost on a wire: flowml, argus, softflowd and nfstream.

    python -m tests.bench.live [--rounds N] [--json FILE]

Needs softflowd, argus-server and argus-client; nfstream gets an environment of its own in .cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import orjson

from tests.bench.generator import CONCURRENT, PER_CONNECTION
from tests.bench.peers import NF, NFSTREAM, install, python_of
from tests.bench.rounds import Found, aim, run, spread, table
from tests.lab import Pair, Process, end, veth_pair, wait_for
from tests.lab import run as run_in
from tests.tool import FLOWML

TITLE = "On the wire: the highest rate without loss"
HOW = """\
Segments of 1,024 connections at a time, ten a connection, come over a veth pair at a steady rate for some
two seconds, sent by an XDP program (`tests/bench/bpf/generator.bpf.c`); loss is what was sent less what
stands in the records, exactly. The rate rises by steps of a quarter until some are missing. Sending and
what the kernel does on arrival, flowml's counting too, run on one core, whatever the tool does in user
space on the other. In every round each tool has its turn. A rate at which something is missing is tried
once more."""

SECONDS = 2.0
STEP = 1.25
LEAST = 12_000.0
STRIDE = 3
TRIES = 2
"""At a rate that loses: on a machine with other work a single loss may be that work's."""
MOST_STEPS = 28
KEPT_UP = 0.8
"""Of a rate, what the sender has to reach for it to count as sent."""

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


def offer(wire: Pair, tool: Tool, per_second: float) -> tuple[float, int]:
    """Sends at a rate; the rate that it came to, and the segments that are missing in the records."""
    whole = CONCURRENT * PER_CONNECTION  # every connection ends
    segments = whole * max(1, round(SECONDS * per_second / whole))
    tool_core = str(max(os.sched_getaffinity(0)))
    wire.right.run(["ethtool", "-K", wire.right.iface, "gro", "on" if tool.gro else "off"])
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # some give up root first
        command = tool.command(wire.right.iface, folder)
        process = wire.right.popen(command, out=folder / "out", err=folder / "err")
        try:
            wait_for(lambda: tool.is_ready(process, wire), f"{tool.name} to listen", process=process)
            for pid in members(process.pid):  # not before: nfstream counts its cores
                run_in(["taskset", "-a", "-c", "-p", tool_core, str(pid)])
            rate = send(wire, segments, per_second)
            wait_until_idle(process)
            missing = tool.missing(segments, process, wire, folder)
        finally:
            end(process, signal.SIGKILL)
    return rate, missing


def send(wire: Pair, segments: int, per_second: float) -> float:
    """Sends so many; the rate that it came to."""
    sender = [sys.executable, "-m", "tests.bench.generator", wire.left.iface]
    said = json.loads(wire.left.run([*sender, str(segments), str(per_second)]))
    return segments / float(said["seconds"])


def wait_until_idle(process: Process) -> None:
    """Until it, and what it started, has used no CPU for a moment: it has worked off what was buffered."""
    seen: list[int] = []

    def idle() -> bool:
        seen.append(ticks(process.pid))
        return len(seen) > IDLE_LOOKS and seen[-IDLE_LOOKS] == seen[-1]

    wait_for(idle, "the tool to be idle", timeout=120)


IDLE_LOOKS = 15
"""Looks, every 20 ms; the unit of CPU time is 10 ms."""


def members(group: int) -> list[int]:
    """The processes of a process group."""
    return [pid for pid, fields in _stats() if int(fields[2]) == group]


def ticks(group: int) -> int:
    """CPU time of a process group, in clock ticks."""
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _stats() if int(fields[2]) == group)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every process, and what its `stat` holds from the state on."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield int(stat.parent.name), stat.read_text().rpartition(")")[2].split()


def climb(tool: Tool, begin: int) -> tuple[int, float, str]:
    """Up by strides until something is missing, and from the last step without loss by single ones.

    Answers the last step without loss, -1 if there is none; the rate that it came to; what ended the climb.
    """
    best, reached, stride, why = -1, 0.0, STRIDE, ""
    step = begin
    with veth_pair() as wire:
        while step < MOST_STEPS:
            asked = LEAST * STEP**step
            for _ in range(TRIES):
                rate, missing = offer(wire, tool, asked)
                print(f"{tool.name}: {rate:,.0f} a second, {missing:,} missing", file=sys.stderr)
                if not missing and rate >= KEPT_UP * asked:
                    break
            if not missing:
                best, reached = step, max(rate, reached)
                if rate < KEPT_UP * asked:
                    return best, reached, "the sender goes no faster"
            elif best < 0 and step > 0:  # it began too high
                why = f"{missing:,} missing at {rate:,.0f}"
                step = max(0, step - STRIDE)
                continue
            else:
                why = f"{missing:,} missing at {rate:,.0f}"
                if stride == 1 or best < 0:
                    break
                stride = 1
            step = best + stride
    return best, reached, why


def measure(rounds: int) -> Found:
    """Segments a second without loss, by tool."""
    install(NF, NFSTREAM)
    found: dict[str, list[float]] = {tool.name: [] for tool in TOOLS}
    ends: dict[str, list[str]] = {tool.name: [] for tool in TOOLS}
    begin = {tool.name: tool.first_step for tool in TOOLS}
    for number in range(rounds):
        for tool in TOOLS[number % len(TOOLS) :] + TOOLS[: number % len(TOOLS)]:
            step, rate, why = climb(tool, begin[tool.name])
            begin[tool.name] = max(0, step - STRIDE)
            found[tool.name].append(rate)
            ends[tool.name].append(why)
    return {"segments_per_second": found, "ended_by": ends, "aims": aims(found)}


def aims(found: dict[str, list[float]]) -> list[Found]:
    usual = {name: statistics.median(rates) for name, rates in found.items()}
    ours = usual[Flowml.name]
    return [
        aim(
            f"highest rate without loss, of {name}",
            f"at least {least} times" if least > 1 else "above",
            f"{ours / usual[name]:.1f} times" if usual[name] else "it lost some at every rate",
            reached=ours > least * usual[name],
        )
        for name, least in ((Nfstream.name, 20), (Argus.name, 1), (Softflowd.name, 1))
    ]


def markdown(found: Found) -> str:
    rates = found["segments_per_second"]
    ours = rates[Flowml.name]
    return table(
        ("without loss", "thousand segments/s", "flowml, of it", "what ended the last climb"),
        [
            (
                name,
                spread([rate / 1e3 for rate in values], 0),
                spread([one / other for one, other in zip(ours, values, strict=True) if other] or [0], 1),
                found["ended_by"][name][-1],
            )
            for name, values in rates.items()
        ],
    )


if __name__ == "__main__":
    run(measure, markdown)
