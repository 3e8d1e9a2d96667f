"""The highest rate at which nothing is lost on a wire: flowml, argus, softflowd and nfstream.

    python -m tests.bench.live [--rounds N] [--json FILE]

Needs softflowd, argus-server and argus-client; nfstream gets an environment of its own in .cache.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.generator import CONCURRENT, PER_CONNECTION
from tests.bench.live_tools import LEAST, TOOLS, Argus, Flowml, Nfstream, Softflowd, Tool, send
from tests.bench.peer_tools import NF, NFSTREAM, install
from tests.bench.rounds import Found, aim, ratios, run, spread, table
from tests.bench.wire import passing
from tests.lab import Pair, Process, end, veth_pair, wait_for
from tests.lab import run as run_in

TITLE = "On the wire: the highest rate without loss"
HOW = """\
Segments of 1,024 connections at a time, ten a connection, come over a veth pair at a steady rate for
about a second, sent by an XDP program (`tests/bench/bpf/generator.bpf.c`); loss is what was sent less
what stands in the records, exactly; softflowd and nfstream hold the last packets back until more come, so
there it is what they say that was dropped. The rate rises by steps of a quarter until some are missing.
Sending and what the kernel does on arrival, flowml's counting too, run on one core, whatever the tool
does in user space on the other. In every round each tool has its turn. A rate at which something is
missing is tried once more. Where the sender is what ends a climb, the second table tells more: the CPU
time that a segment costs beyond the same traffic with nobody looking, of the kernel at full speed and of
the tool at 40,000 a second."""

SECONDS = 1.0
STEP = 1.25
STRIDE = 3
TRIES = 2
"""At a rate that loses: on a machine with other work a single loss may be that work's."""
MOST_STEPS = 28
WHOLE = CONCURRENT * PER_CONNECTION
"""Segments with which every connection has ended."""
FULL_SPEED = 50 * WHOLE
COSTED, COSTED_PER_SECOND = 8 * WHOLE, 40_000.0
KEPT_UP = 0.8
"""Of a rate, what the sender has to reach for it to count as sent."""


@contextlib.contextmanager
def listening(wire: Pair, tool: Tool) -> Iterator[tuple[Process, Path]]:
    """The tool at the right end of the wire, on a core of its own, and the folder that it writes to."""
    set_gro(wire, tool)
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # some give up root first
        command = tool.command(wire.right.iface, folder)
        process = wire.right.popen(command, out=folder / "out", err=folder / "err")
        try:
            wait_for(lambda: tool.is_ready(process, wire), f"{tool.name} to listen", process=process)
            for pid in members(process.pid):  # not before: nfstream counts its cores
                core = str(max(os.sched_getaffinity(0)))
                run_in(["taskset", "-a", "-c", "-p", core, str(pid)])
            yield process, folder
        finally:
            end(process, signal.SIGKILL)
            for pid in members(process.pid):  # nfstream's meters outlive it
                os.kill(pid, signal.SIGKILL)


def set_gro(wire: Pair, tool: Tool) -> None:
    wire.right.run(["ethtool", "-K", wire.right.iface, "gro", "on" if tool.gro else "off"])


def offer(wire: Pair, tool: Tool, per_second: float) -> tuple[float, int]:
    """Sends at a rate; the rate that it came to, and the segments that are missing in the records."""
    segments = WHOLE * max(1, round(SECONDS * per_second / WHOLE))
    with listening(wire, tool) as (process, folder):
        rate = send(wire, segments, per_second)
        wait_until_idle(process)
        return rate, tool.missing(segments, process, wire, folder)


def cost(tool: Tool) -> tuple[float, float]:
    """Nanoseconds that a segment takes, more than without the tool: of the kernel on its arrival, and of the
    tool in user space."""
    with veth_pair() as wire:
        set_gro(wire, tool)
        with contextlib.nullcontext() if tool.gro else passing(wire.right):
            alone = send(wire, FULL_SPEED, 0)
        with listening(wire, tool) as (process, _):
            before = cpu_ns(process.pid)
            send(wire, COSTED, COSTED_PER_SECOND)
            wait_until_idle(process)
            used = cpu_ns(process.pid) - before
            watched = send(wire, FULL_SPEED, 0)
    return 1e9 / watched - 1e9 / alone, used / COSTED


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


def cpu_ns(group: int) -> int:
    """CPU time of the threads of a process group, nanoseconds."""
    files = (file for pid in members(group) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files)


def ticks(group: int) -> int:
    """CPU time of a process group, in clock ticks."""
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _stats() if int(fields[2]) == group)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every process, and what its `stat` holds from the state on."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield int(stat.parent.name), stat.read_text().rpartition(")")[2].split()


def climb(tool: Tool, begin: int, stride: int) -> tuple[int, float, str]:
    """Up by strides until something is missing, and from the last step without loss by single ones.

    Answers the last step without loss, -1 if there is none; the rate that it came to; what ended the climb.
    """
    best, reached, why = -1, 0.0, ""
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
    stride = STRIDE
    costs: dict[str, dict[str, list[float]]] = {tool.name: {"kernel": [], "user": []} for tool in TOOLS}
    for number in range(rounds):
        for tool in TOOLS[number % len(TOOLS) :] + TOOLS[: number % len(TOOLS)]:
            step, rate, why = climb(tool, begin[tool.name], stride)
            begin[tool.name] = max(0, step - 1)
            found[tool.name].append(rate)
            ends[tool.name].append(why)
            for where, nanoseconds in zip(("kernel", "user"), cost(tool), strict=True):
                costs[tool.name][where].append(nanoseconds)
        stride = 1  # from the second round on it is known where to look
    return {"segments_per_second": found, "ended_by": ends, "ns_per_segment": costs, "aims": aims(found)}


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


def whole_cost(found: Found, name: str) -> list[float]:
    """Nanoseconds a segment, kernel and user space, round by round."""
    of = found["ns_per_segment"][name]
    return [kernel + user for kernel, user in zip(of["kernel"], of["user"], strict=True)]


def markdown(found: Found) -> str:
    rates, costs = found["segments_per_second"], found["ns_per_segment"]
    ours = rates[Flowml.name]
    text = table(
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
    text += "\n" + table(
        ("ns of CPU a segment", "kernel", "user space", "together", "of flowml"),
        [
            (
                name,
                spread(of["kernel"], 0),
                spread(of["user"], 0),
                spread(whole_cost(found, name), 0),
                spread(ratios(whole_cost(found, name), whole_cost(found, Flowml.name)), 1),
            )
            for name, of in costs.items()
        ],
    )
    return text


if __name__ == "__main__":
    run(measure, markdown)
