"""flowml extract beside other tools that make flows of a capture, in the same run.

    python -m tests.bench.peers [--rounds N] [--json FILE]

Needs softflowd, argus-server and argus-client; nfstream and cicflowmeter get environments of their own in
.cache.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

from tests import frames
from tests.bench.merged import one_after_the_other, write_merged
from tests.bench.peer_counts import compare
from tests.bench.peer_tools import (
    CACHE,
    CIC,
    CICFLOWMETER,
    FLOWML_TCP,
    FLOWML_TLS,
    NF,
    NFSTREAM,
    SOFTFLOWD,
    TOOLS,
    Run,
    cicflowmeter,
    install,
    timed,
)
from tests.bench.rounds import Found, aim, ratios, run, spread, table
from tests.conftest import captures
from tests.tool import FLOWML

TITLE = "Captures, beside other tools"
HOW = """\
What each tool counts is compared first, over every real capture. Then all read the same merged captures
(`tests/bench/merged.py`) from the page cache, in turns, each as a process of its own on the same core; a
sixteenth of the packets is read in the same round, so that the cost of one more packet is known without the
start. Each tool does what it is for: softflowd counts packets and bytes and exports nothing, argus writes
handshakes and intervals as CSV, nfstream has its statistics on (its flows are iterated, not written),
flowml writes its lines. Nobody keeps them. nfstream takes up to five turns; cicflowmeter, a thousand times
slower, gets a capture of a few thousand packets, and up to three."""

PACKETS = 2_000_000
LONGER = 16
"""Times as many packets as in the short capture, which is every real one once."""
NF_ROUNDS = 5
CIC_PACKETS, CIC_ROUNDS = 4000, 3

INSIDE = """
import json, sys, time
started = time.time(), time.process_time()
from collector.cli import prepare
prepare()
import typer
from collector.commands import app_for
typer.main.get_command(app_for(["extract"]))
made = time.time(), time.process_time()
from collector import offline
from collector.settings_file import read_settings
imported = time.time(), time.process_time()
settings = read_settings(None, offline=True, outfile="/dev/null", filter=sys.argv[2])
offline.extract([sys.argv[1]], settings, jobs=1)
ended = time.time(), time.process_time()
print(json.dumps([(float(sys.argv[3]), 0), started, made, imported, ended]))
"""


PARTS = ("until Python runs", "the command line", "numpy and the rest", "reading, features, lines")


def inside(path: Path, which: str) -> list[float]:
    """Seconds of CPU of a `flowml extract`, by part."""
    argv = [str(FLOWML.with_name("python")), "-c", INSIDE, str(path), which, str(time.time())]
    moments = json.loads(timed(argv).out)
    return [after[1] - before[1] for before, after in pairwise(moments)]


def measure(rounds: int) -> Found:
    """What they count, what they took, and how it compares."""
    if not captures():
        raise SystemExit("set FLOWML_TRACES to a folder of captures")
    install(NF, NFSTREAM)
    install(CIC, *CICFLOWMETER)
    counts = compare()
    took: dict[str, dict[str, list[Run]]] = {name: {"whole": [], "short": []} for name in (*TOOLS, CIC)}
    parts: dict[str, dict[str, list[float]]] = {
        which: {part: [] for part in PARTS} for which in ("tls", "tcp")
    }
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        paths = {"whole": folder / "whole.pcap", "short": folder / "short.pcap"}
        packets = {"short": write_merged(paths["short"], PACKETS // LONGER)}
        packets["whole"] = write_merged(paths["whole"], PACKETS)
        few = folder / "few.pcap"
        few.write_bytes(frames.pcap(islice(one_after_the_other(), CIC_PACKETS)))
        for number in range(rounds):
            for tool in list(TOOLS)[number % len(TOOLS) :] + list(TOOLS)[: number % len(TOOLS)]:
                if tool == NF and number >= NF_ROUNDS:
                    continue
                for length, path in paths.items():
                    took[tool][length].append(timed(TOOLS[tool](path)))
                print(f"round {number + 1}: {tool} {took[tool]['whole'][-1].wall_s:.2f} s", file=sys.stderr)
            if number < CIC_ROUNDS:
                took[CIC]["whole"].append(timed(cicflowmeter(few)))
            for which, by_part in parts.items():
                for part, cpu_s in zip(PARTS, inside(paths["whole"], which), strict=True):
                    by_part[part].append(cpu_s)
    runs = {
        tool: {
            length: [{"wall_s": one.wall_s, "cpu_s": one.cpu_s, "peak_mb": one.peak_mb} for one in ones]
            for length, ones in by_length.items()
        }
        for tool, by_length in took.items()
    }
    found = {"counts": counts, "packets": {**packets, "few": CIC_PACKETS}, "runs": runs, "inside": parts}
    return {**found, "aims": aims(found)}


def seconds(found: Found, tool: str, clock: str, length: str = "whole") -> list[float]:
    return [float(one[clock]) for one in found["runs"][tool][length]]


def another_packet(found: Found, tool: str) -> list[float]:
    """Nanoseconds of CPU that one more packet takes, round by round: without the start."""
    more = found["packets"]["whole"] - found["packets"]["short"]
    pairs = zip(seconds(found, tool, "cpu_s"), seconds(found, tool, "cpu_s", "short"), strict=True)
    return [1e9 * (whole - short) / more for whole, short in pairs]


def of_flowml(values: list[float], ours: list[float]) -> list[float]:
    """Round by round, a tool's over flowml's, in the rounds that the tool took part in: the first ones."""
    return ratios(values, ours[: len(values)])


def per_packet(found: Found, tool: str) -> float:
    """Median of the microseconds a packet, start and all."""
    packets: int = found["packets"]["few" if tool == CIC else "whole"]
    return 1e6 * statistics.median(seconds(found, tool, "wall_s")) / packets


def aims(found: Found) -> list[Found]:
    results = []
    for other, least in ((NF, 100), (SOFTFLOWD, 2.5)):
        times = {
            ours: statistics.median(of_flowml(seconds(found, other, "cpu_s"), seconds(found, ours, "cpu_s")))
            for ours in (FLOWML_TLS, FLOWML_TCP)
        }
        more = statistics.median(of_flowml(another_packet(found, other), another_packet(found, FLOWML_TLS)))
        results.append(
            aim(
                f"flowml extract, as fast as {other}",
                f"{least} times",
                "; ".join(f"{ours}: {value:.1f} times" for ours, value in times.items())
                + f"; without the start: {more:.1f} times",
                reached=times[FLOWML_TLS] >= least,
            )
        )
    agreed = all(
        {key: value for key, value in one.items() if key != "expected"} == one["expected"]
        for one in found["counts"].values()
    )
    results.append(
        aim(
            "every tool counts what its rules make of the packets",
            "equal",
            "equal" if agreed else "not equal",
            reached=agreed,
        )
    )
    return results


def markdown(found: Found) -> str:
    packets = found["packets"]
    rows: list[list[object]] = []
    for tool in TOOLS:
        wall, cpu = seconds(found, tool, "wall_s"), seconds(found, tool, "cpu_s")
        rows.append(
            [
                tool,
                spread(wall),
                spread(cpu),
                f"{1 / per_packet(found, tool):.2f}",
                spread(of_flowml(cpu, seconds(found, FLOWML_TLS, "cpu_s"))),
                spread(another_packet(found, tool), 0),
                spread(of_flowml(another_packet(found, tool), another_packet(found, FLOWML_TLS)), 1),
                f"{max(seconds(found, tool, 'peak_mb')):.0f}",
                f"{max(seconds(found, tool, 'peak_mb', 'short')):.0f}",
            ]
        )
    header = ("", "wall s", "CPU s", "million packets/s", "CPU, of flowml", "ns CPU for one more packet")
    text = f"{packets['whole']:,} packets; the short capture has {packets['short']:,}.\n\n"
    text += table((*header, "that, of flowml", "peak MB", "short: peak MB"), rows)
    slow = per_packet(found, CIC)
    text += (
        f"\ncicflowmeter: {1e6 / slow:,.0f} packets/s over {packets['few']:,} packets, start and all; flowml "
        f"over the long capture {slow / per_packet(found, FLOWML_TLS):,.0f} times as many.\n\n"
    )
    text += table(
        ("CPU s of flowml extract", *next(iter(found["inside"].values()))),
        [(f"--filter {which}", *map(spread, parts.values())) for which, parts in found["inside"].items()],
    )
    text += "\n" + table(
        ("of every real capture, TCP over IPv4", "flows", "segments", "bytes", "as expected"),
        [
            (
                tool,
                one["flows"] or "-",
                f"{one['segments']:,}",
                f"{one['bytes']:,}",
                "yes" if all(one[key] == value for key, value in one["expected"].items()) else "no",
            )
            for tool, one in found["counts"].items()
        ],
    )
    return text


if __name__ == "__main__":
    run(measure, markdown)
