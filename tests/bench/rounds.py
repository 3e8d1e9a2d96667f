"""How every benchmark here measures: what is compared takes turns, round after round, and ratios are of one
round.

A module of a benchmark has `TITLE`, `HOW` (what is measured, for the reader), `measure(rounds)`, which
answers raw numbers that JSON can hold, and `markdown(found)`, which says them as tables. `run` is its command
line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ROUNDS", "Found", "aim", "in_turns", "on_core", "ratios", "run", "spread", "table"]

ROUNDS = 10

Found = dict[str, Any]
"""What a benchmark found, as JSON has it."""


def in_turns(
    variants: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measures every variant once a round, each round beginning with another one: a value a round."""
    names = list(variants)
    if warm_up:
        for name in names:
            variants[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(variants[name]())
    return found


def ratios(values: Iterable[float], base: Iterable[float]) -> list[float]:
    """Round by round, one over the other."""
    return [value / other for value, other in zip(values, base, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and in brackets the quartiles."""
    if len(values) < 2:
        return f"{values[0]:,.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:,.{digits}f} [{low:,.{digits}f} {high:,.{digits}f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def aim(what: str, wanted: str, measured: str, *, reached: bool) -> Found:
    """One aim of a benchmark, and what came of it; goes into `Found` under `aims`."""
    return {"what": what, "wanted": wanted, "measured": measured, "reached": reached}


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """In its body this thread runs on one core: the first for 0, the last for -1."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(measure: Callable[[int], Found], markdown: Callable[[Found], str]) -> None:
    """The command line of a benchmark: prints Markdown, keeps the raw numbers where it is told to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--json", type=Path, help="file for the raw numbers")
    args = parser.parse_args()
    found = measure(args.rounds)
    if args.json:
        args.json.write_text(json.dumps(found))
    sys.stdout.write(markdown(found))
