"""`make bench`: every benchmark, one after the other, into docs/benchmarks.md and docs/benchmarks.json.

    python -m tests.bench [--rounds N] [--only NAME...]

Each runs in a process of its own. With `--only` nothing is written: results are printed. What is written is
what stands between the marks of docs/benchmarks.md; the rest of the page is for people. If one fails, what
the others found is in .cache/benchmarks.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import machine
from tests.bench.rounds import ROUNDS, Found

ROOT = Path(__file__).resolve().parents[2]
PAGE, RAW = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.json"
KEPT = ROOT / ".cache" / "benchmarks.json"
BEGIN, END = "<!-- make bench -->\n", "<!-- end -->\n"

BENCHMARKS = ("packets", "drain", "engines", "whole", "wire", "peers", "live", "start", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=[], metavar="NAME")
    args = parser.parse_args()
    command = f"make bench ROUNDS={args.rounds}"
    found: Found = {"command": command, "machine": machine.describe(), "benchmarks": {}}
    if found["machine"]["bpf_stats"] != "0":
        raise SystemExit("the kernel times every BPF program: sysctl kernel.bpf_stats_enabled=0")
    begin = time.monotonic()
    failed = []
    for name in args.only or BENCHMARKS:
        one = run(name, args.rounds)
        if one is None:
            failed.append(name)
        else:
            found["benchmarks"][name] = one
    found["seconds"] = time.monotonic() - begin
    raw = json.dumps(found, indent=1) + "\n"
    if failed:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(raw)
        raise SystemExit(f"failed: {' '.join(failed)}; what the others found is in {KEPT}")
    if not args.only:
        RAW.write_text(raw)
        PAGE.write_text(between_marks(PAGE.read_text(), markdown(found)))


def run(name: str, rounds: int) -> Found | None:
    """Runs one in a process of its own, what it prints for all to see; None if it failed."""
    print(f"\n== {name}, {rounds} rounds", file=sys.stderr, flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as folder:
        raw = Path(folder) / "raw.json"
        this = [sys.executable, "-m", f"tests.bench.{name}", "--rounds", str(rounds), "--json", str(raw)]
        if subprocess.run(this, check=False).returncode:
            return None
        found: Found = json.loads(raw.read_text())
    return {"rounds": rounds, "seconds": time.monotonic() - begin, **found}


def markdown(found: Found) -> str:
    """The part of the page that is measured."""
    aims = [one for benchmark in found["benchmarks"].values() for one in benchmark["aims"]]
    text = (
        f"`{found['command']}`, {found['seconds'] / 60:.0f} minutes. Median and, in brackets, the quartiles "
        "of the rounds, in which all take turns; a ratio is of one round. Raw numbers: "
        "[benchmarks.json](benchmarks.json).\n\n" + machine.markdown(found["machine"]) + "\n## Aims\n\n"
        "| | aim | measured | reached |\n|---|---|---|---|\n"
    )
    for one in aims:
        reached = "yes" if one["reached"] else "**no**"
        text += f"| {one['what']} | {one['wanted']} | {one['measured']} | {reached} |\n"
    for name, benchmark in found["benchmarks"].items():
        module = importlib.import_module(f"tests.bench.{name}")
        text += f"\n## {module.TITLE}\n\n{module.HOW}\n\n"
        text += f"`python -m tests.bench.{name} --rounds {benchmark['rounds']}`, "
        text += f"{benchmark['seconds']:.0f} seconds.\n\n{module.markdown(benchmark)}"
    return text


def between_marks(page: str, text: str) -> str:
    """The page with this text between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin
    assert end, f"{PAGE} has lost its marks"
    return before + BEGIN + text + END + after


if __name__ == "__main__":
    main()
