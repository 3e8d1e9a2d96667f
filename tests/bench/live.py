"""The highest rate at which nothing is lost on a wire: flowml, argus, softflowd and nfstream.

    python -m tests.bench.live [--rounds N] [--json FILE]

Needs softflowd, argus-server and argus-client; nfstream gets an environment of its own in .cache.
"""

from __future__ import annotations

import contextlib
import statistics
import sys

from tests.bench.climbing import climb
from tests.bench.generator import WHOLE
from tests.bench.live_tools import LEAST, TOOLS, Argus, Flowml, Nfstream, Running, Softflowd, Tool
from tests.bench.live_wire import Sender, Wire
from tests.bench.peer_tools import NF, NFSTREAM, install
from tests.bench.rounds import Found, aim, ratios, run, spread, table
from tests.lab import veth_pair

TITLE = "On the wire: the highest rate without loss"
HOW = """\
Segments of 1,024 connections at a time, ten a connection, come over a veth pair at a steady rate for
0.3 seconds, sent by an XDP program (`tests/bench/bpf/generator.bpf.c`); loss is what was sent less
what stands in the records, exactly; softflowd and nfstream hold the last packets back until more come, so
there it is what they say that was dropped. Rates are a quarter apart; every round looks for the highest
without loss from where the round before found it. A rate at which something is missing is tried once more.
Sending and what the kernel does on arrival, flowml's counting too, run on one core, whatever the tool
does in user space on the other. In every round each tool has its turn. flowml's table has room for 16,384
connections, so that what is too much for it is refused and not kept for later.

What the sender does by itself, as fast as it goes, bounds all: where it is what ended a climb, the last table
tells more. It has the CPU time that a segment costs beyond the same traffic with nobody looking, of the
kernel at full speed and of the tool at 40,000 a second."""

SECONDS = 0.3
STEP = 1.25
STEPS = 28
TRIES = 2
"""At a rate that loses or is not reached: on a machine with other work a single time may be that work's."""
FULL_SPEED = 25 * WHOLE
COSTED, COSTED_PER_SECOND = 2 * WHOLE, 40_000.0
KEPT_UP = 0.8
"""Of a rate, what the sender has to reach for it to count as sent."""

REFUSED, PASSED, RECEIVED = "refused by the veth", "passed by an empty XDP program", "received with GRO on"


class Climb:
    """One tool's turn: the highest rate without loss, and what ended it."""

    def __init__(self, running: Running, begin: int) -> None:
        self._running = running
        self.rate = 0.0
        """Segments a second, the highest that was reached without loss."""
        self.ended_by = ""
        self._sender_ends = 0
        self.step = climb(self._holds, begin, STEPS)

    def _holds(self, step: int) -> bool:
        if step < self._sender_ends:  # it has held all that the sender could do
            return True
        asked = LEAST * STEP**step
        segments = WHOLE * max(1, round(SECONDS * asked / WHOLE))
        for _ in range(TRIES):
            rate, missing = self._running.offer(segments, asked)
            print(f"{self._running.tool.name}: {rate:,.0f} a second, {missing:,} missing", file=sys.stderr)
            if missing:
                self.ended_by = f"{missing:,} missing at {rate:,.0f}"
                continue
            self.rate = max(self.rate, rate)
            if rate >= KEPT_UP * asked:
                return True
            self.ended_by, self._sender_ends = "the sender goes no faster", step
        return False


def cost(running: Running, alone: float) -> tuple[float, float]:
    """Nanoseconds that a segment takes, more than without the tool: of the kernel on its arrival, where it
    takes the sender alone so many a second; and of the tool in user space."""
    running.start()
    before = running.cpu_ns()
    running.send(COSTED, COSTED_PER_SECOND)
    used = running.cpu_ns() - before
    return 1e9 / running.wire.send(FULL_SPEED) - 1e9 / alone, used / COSTED


def sender_alone(wire: Wire) -> dict[str, float]:
    """Segments a second, by what becomes of them."""
    found = {}
    wire.set_gro(False)
    found[REFUSED] = wire.send(FULL_SPEED)
    with wire.passing():
        found[PASSED] = wire.send(FULL_SPEED)
    wire.set_gro(True)
    found[RECEIVED] = wire.send(FULL_SPEED)
    return found


def measure(rounds: int) -> Found:
    """Segments a second without loss, by tool, and what they cost; what the sender does alone."""
    install(NF, NFSTREAM)
    sender = Sender()
    rates: dict[str, list[float]] = {tool.name: [] for tool in TOOLS}
    ends: dict[str, list[str]] = {tool.name: [] for tool in TOOLS}
    costs: dict[str, dict[str, list[float]]] = {tool.name: {"kernel": [], "user": []} for tool in TOOLS}
    alone: dict[str, list[float]] = {what: [] for what in (REFUSED, PASSED, RECEIVED)}
    begin = {tool.name: tool.first_step for tool in TOOLS}

    def turn(tool: Tool, wire: Wire) -> None:
        with contextlib.closing(Running(tool, wire)) as running:
            found = Climb(running, begin[tool.name])
            begin[tool.name] = max(0, found.step)
            rates[tool.name].append(found.rate)
            ends[tool.name].append(found.ended_by)
            without = alone[RECEIVED if tool.gro else PASSED][-1]
            for where, nanoseconds in zip(("kernel", "user"), cost(running, without), strict=True):
                costs[tool.name][where].append(nanoseconds)

    for number in range(rounds):
        with veth_pair() as pair:
            wire = Wire(pair, sender)
            for what, rate in sender_alone(wire).items():
                alone[what].append(rate)
            for tool in TOOLS[number % len(TOOLS) :] + TOOLS[: number % len(TOOLS)]:
                turn(tool, wire)
    return {
        "segments_per_second": rates,
        "ended_by": ends,
        "sender_per_second": alone,
        "ns_per_segment": costs,
        "aims": aims(rates),
    }


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
        ("the sender alone, its segments", "thousand segments/s", "ns a segment"),
        [
            (what, spread([rate / 1e3 for rate in values], 0), spread([1e9 / rate for rate in values], 0))
            for what, values in found["sender_per_second"].items()
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
