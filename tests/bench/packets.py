"""What a packet of a known connection costs in the kernel, beside less and beside the patterns of others.

python -m tests.bench.packets [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from collector.drain import Ring
from collector.features import needs_of
from collector.records import Needs
from tests.bench import helpers, walking
from tests.bench.rounds import Found, aim, in_turns, on_core, ratios, run, spread, table
from tests.bench.walking import Programs, Walk

TITLE = "Per packet, in the kernel"
HOW = """\
`BPF_PROG_TEST_RUN`, with the kernel's own timer, of a data segment of a connection that is in the table:
65,536 connections in a table of 131,072. Each run is of the next connection in an order that no
prefetcher follows, over 1, 1,024 or all 65,536 of them. Every program is built on flowml's parser and
carries the same step from packet to packet (`tests/bench/bpf/walk.h`); shown is what it takes more than
the one that only parses, in nanoseconds. The patterns of others keep, in one map value, what the same 17
features need; of the ring only the kernel's side is counted, and flowml also counts the packet's fate,
which the others do not. The 6 features are `dur`, `s_bytes_sum`, `d_bytes_sum`, `s_pkt_cnt`, `d_pkt_cnt`,
`s_iat_mean`: what no feature of a model needs is not compiled. *Wrong on two CPUs* is flowml with plain
operations in place of every atomic one: what exactness costs. *In as many bytes as flowml's*: the value
has 192, of which 24 are used, so that the table covers as many pages.

Which functions of the kernel a data segment of a known connection calls is counted as they are called
(`tests/bench/helpers.py`). A look-up in an array is none: the kernel makes arithmetic of it."""

TABLE = 131_072
CONNECTIONS = 65_536
TOUCHED = (1, 1024, 65_536)
HOOKS = ("XDP", "TC")
RUNS = 250_000
RING_BYTES = 1 << 24

OURS, PARSE, MINIMAL = "flowml", "parse only", "one look-up, two additions"
TIMED = "the same, atomic, and the time of the last"
SIZED = "that, in as many bytes as flowml's"
SPIN_LOCK, PER_CPU, LRU = "hash with a spin lock", "per-CPU hash", "LRU hash, atomic"
RING = "a ring record a packet"
BASELINES = {
    "pass only": "PASS_ONLY",
    PARSE: "PARSE_ONLY",
    "parse, read the clock": "CLOCK",
    MINIMAL: "MINIMAL",
    "the same, atomic": "MINIMAL_ATOMIC",
    TIMED: "MINIMAL_TIMED",
    SIZED: "MINIMAL_SIZED",
    SPIN_LOCK: "SPIN_LOCK",
    PER_CPU: "PER_CPU",
    LRU: "LRU",
    RING: "RING",
}

SIX = ("dur", "s_bytes_sum", "d_bytes_sum", "s_pkt_cnt", "d_pkt_cnt", "s_iat_mean")
VARIANTS: dict[str, dict[str, Any]] = {
    OURS: {},
    "flowml, 6 features": {"needs": needs_of(SIX)},
    "flowml, counts and times alone": {"needs": Needs.NONE},
    "flowml, IPv4 and IPv6": {"ip": "both"},
}
"""flowml for all features, and for what else it can be compiled for: arguments of `compile_flags`."""

PLAIN = "flowml, wrong on two CPUs"
PLAIN_FLAGS = (
    "-Datomic_add(at,value)=({ __typeof__(*(at)) was = *(at); *(at) = was + (value); was; })",
    "-Datomic_or(at,value)=({ __typeof__(*(at)) was = *(at); *(at) = was | (value); was; })",
    "-Datomic_swap_if(at,expected,value)="
    "({ __typeof__(*(at)) was = *(at); if (was == (expected)) *(at) = (value); was; })",
)
"""What flowml would cost if none of its updates were atomic (the names of track.h)."""

AIMS = ((MINIMAL, 1.5), (SPIN_LOCK, 0.8), (PER_CPU, 1.0), (LRU, 0.8), (RING, 0.5))
"""What flowml may cost, in what the other costs; both less what parsing costs."""
MOST_CALLS = 2


def programs() -> dict[str, Programs]:
    """Every program that is compared, its table filled."""
    flags = {name: walking.settings(max_connections=TABLE, **more) for name, more in VARIANTS.items()}
    flags[PLAIN] = [*flags[OURS], *PLAIN_FLAGS]
    found = {name: walking.flowml(each, max_connections=TABLE) for name, each in flags.items()}
    sizes = (f"-DCONNECTIONS={TABLE}", f"-DRING_BYTES={RING_BYTES}")
    found |= {name: walking.baseline(f"-D{flag}", *sizes) for name, flag in BASELINES.items()}
    for one in found.values():
        one.open(CONNECTIONS)
    return found


def turn(program: Programs, hook: str, touched: int, ring: Ring | None) -> float:
    """Nanoseconds a packet."""
    if ring is not None:  # as if somebody had read it
        ring._consumer[0] = ring._producer[0]
    return walking.step(program.fd(hook), "A", Walk(touched), RUNS)


def measure(rounds: int) -> Found:
    """Nanoseconds a packet, by hook, connections touched, and program."""
    all_programs = programs()
    ring = Ring(os.dup(all_programs[RING].module["segments"].map_fd), RING_BYTES)
    nanoseconds: Found = {}
    with on_core(-1):
        for hook in HOOKS:
            nanoseconds[hook] = {}
            for touched in TOUCHED:
                turns: dict[str, Callable[[], float]] = {
                    name: partial(turn, one, hook, touched, ring if name == RING else None)
                    for name, one in all_programs.items()
                }
                nanoseconds[hook][str(touched)] = in_turns(turns, rounds)
    ours = all_programs[OURS].table
    assert ours is not None
    counters = ours.counters()
    assert counters["tracked"] == sum(counters.values()) - counters["opened"], counters
    ring.close()
    for one in all_programs.values():
        one.close()
    calls = helpers.calls_of_a_known_flow()
    return {"nanoseconds": nanoseconds, "calls": calls, "aims": [*aims(nanoseconds), aim_of_calls(calls)]}


def beyond_parsing(cell: dict[str, list[float]], name: str) -> list[float]:
    """Round by round, nanoseconds more than parsing."""
    return [value - parse for value, parse in zip(cell[name], cell[PARSE], strict=True)]


def of_other(cell: dict[str, list[float]], name: str, other: str) -> list[float]:
    """Round by round, in what the other costs; both beyond parsing."""
    return ratios(beyond_parsing(cell, name), beyond_parsing(cell, other))


def cells(nanoseconds: Found) -> list[tuple[str, dict[str, list[float]]]]:
    return [
        (f"{hook}, {int(touched):,}", cell)
        for hook, by_touched in nanoseconds.items()
        for touched, cell in by_touched.items()
    ]


def aims(nanoseconds: Found) -> list[Found]:
    found = []
    for other, most in AIMS:
        each = [(where, statistics.median(of_other(cell, OURS, other))) for where, cell in cells(nanoseconds)]
        found.append(
            aim(
                f"a packet of a known connection, of {other}",
                f"at most {most}",
                "; ".join(f"{where}: {value:.2f}" for where, value in each),
                reached=all(value <= most for _, value in each),
            )
        )
    return found


def aim_of_calls(calls: dict[str, dict[str, int]]) -> Found:
    made = {where: sum(by_name.values()) for where, by_name in calls.items()}
    return aim(
        "helper calls for a packet of a known connection",
        f"at most {MOST_CALLS}",
        "; ".join(f"{where}: {number}" for where, number in made.items()),
        reached=all(number <= MOST_CALLS for number in made.values()),
    )


def markdown(found: Found) -> str:
    each = cells(found["nanoseconds"])
    names = list(each[0][1])
    header = ["beyond parsing, ns a packet", *(where for where, _ in each)]
    costs = [
        [name, *(spread(beyond_parsing(cell, name), 0) for _, cell in each)]
        for name in names
        if name != PARSE
    ]
    parsing = [PARSE + ", the whole run", *(spread(cell[PARSE], 0) for _, cell in each)]
    shares = [
        [f"of {other}", *(spread(of_other(cell, OURS, other)) for _, cell in each)] for other, _ in AIMS
    ]
    text = table(header, [*costs, parsing])
    text += "\n" + table(["flowml's cost", *header[1:]], shares)
    if variants := [name for name in VARIANTS if name != OURS]:
        rows = [
            [f"{name}, of {OURS}", *(spread(of_other(cell, name, OURS)) for _, cell in each)]
            for name in variants
        ]
        text += "\n" + table(["compiled for other needs", *header[1:]], rows)
    calls = found["calls"]
    called = sorted({name for by_name in calls.values() for name in by_name})
    text += "\n" + table(
        ["calls, for a packet of a known connection", *calls],
        [[f"`{name}`", *(by_name.get(name, 0) for by_name in calls.values())] for name in called],
    )
    return text


if __name__ == "__main__":
    run(measure, markdown)
