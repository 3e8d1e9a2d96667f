"""flowml extract beside other tools that make flows of a capture, in the same run.

    python -m tests.bench.peers [--rounds N] [--json FILE]

Needs softflowd, argus-server and argus-client; nfstream and cicflowmeter get environments of their own in
.cache.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path

from tests import frames
from tests.bench.merged import one_after_the_other, write_merged
from tests.bench.rounds import Found, aim, ratios, run, spread, table
from tests.conftest import captures
from tests.oracle import NS_PER_S
from tests.referees.seen import Capture, merged
from tests.referees.test_argus import argus, records_of
from tests.tool import FLOWML

TITLE = "Captures, beside other tools"
HOW = """\
What each tool counts is compared first, over every real capture. Then all read the same merged captures
(`tests/bench/merged.py`) from the page cache, in turns, each as a process of its own on the same core; a
tenth of the packets is read in the same round, so that the cost of one more packet is known without the
start. Each tool does what it is for: softflowd counts packets and bytes and exports nothing, argus writes
handshakes and intervals as CSV, nfstream has its statistics on (its flows are iterated, not written),
flowml writes its lines. Nobody keeps them. cicflowmeter, a thousand times slower, gets a capture of a few
thousand packets, and up to three turns."""

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "peers"
NFSTREAM = "nfstream==6.6.0"
CICFLOWMETER = ("cicflowmeter==0.2.0", "scapy==2.5.0")  # with a later scapy it writes an empty file
NFSTREAM_IDLE_S = 120
ETHERNET = 14  # bytes of the header
PACKETS = 1_300_000
LONGER = 10
"""Times as many packets as in the short capture."""
CIC_PACKETS, CIC_ROUNDS = 4000, 3
CORE = str(max(os.sched_getaffinity(0)))

FLOWML_TLS, FLOWML_TCP = "flowml", "flowml --filter tcp"
SOFTFLOWD, ARGUS_RA, NF, CIC = "softflowd", "argus, ra", "nfstream", "cicflowmeter"

# From a process that is small: what a large one starts is as large for a moment, and that counts.
MEASURE = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
wall = time.perf_counter() - begin
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
print(json.dumps([done.returncode, wall, cpu, used.ru_maxrss / 1024, done.stdout, done.stderr]))
"""

INSIDE = """
import json, sys, time
started = time.time(), time.process_time()
from collector import offline, online
imported = time.time(), time.process_time()
settings = online.read_settings(None, offline=True, outfile="/dev/null", filter=sys.argv[2])
offline.extract([sys.argv[1]], settings, jobs=1)
ended = time.time(), time.process_time()
print(json.dumps([(float(sys.argv[3]), 0), started, imported, ended]))
"""

NFSTREAM_SCRIPT = f"""
import sys
from nfstream import NFStreamer
flows = NFStreamer(source=sys.argv[1], statistical_analysis=True, accounting_mode=1, n_meters=1,
                   idle_timeout={NFSTREAM_IDLE_S}, active_timeout=86400)
count = packets = size = 0
for flow in flows:
    if flow.protocol == 6 and flow.ip_version == 4:
        count += 1
        packets += flow.bidirectional_packets
        size += flow.bidirectional_bytes
print(count, packets, size)
"""

ARGUS_SCRIPT = (
    'argus -X -m -J -R -S 86400 -r "$0" -w - | ra -r - -n -u -p 6 -c , -s stime saddr sport daddr dport '
    "smac dur spkts dpkts sbytes dbytes sttl dttl sload dload tcprtt synack ackdat sintpkt dintpkt - tcp "
    "> /dev/null"
)

TOOLS: dict[str, Callable[[Path], list[str]]] = {
    FLOWML_TLS: lambda path: [str(FLOWML), "extract", str(path), "--outfile", "/dev/null"],
    FLOWML_TCP: lambda path: [*TOOLS[FLOWML_TLS](path), "--filter", "tcp"],
    SOFTFLOWD: lambda path: ["softflowd", "-r", str(path), "-c", "none", "-d"],
    ARGUS_RA: lambda path: ["sh", "-c", ARGUS_SCRIPT, str(path)],
    NF: lambda path: [str(python_of(NF)), "-c", NFSTREAM_SCRIPT, str(path)],
}


def cicflowmeter(path: Path) -> list[str]:
    return [str(python_of(CIC).with_name("cicflowmeter")), "-f", str(path), "-c", "/dev/null"]


@dataclass(frozen=True)
class Run:
    """What a command took, and what it said."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    out: str
    err: str


def timed(argv: Sequence[str]) -> Run:
    """Runs a command on the one core."""
    done = subprocess.run(
        ["taskset", "-c", CORE, "/usr/bin/python3", "-S", "-c", MEASURE, *argv],
        capture_output=True,
        text=True,
        check=True,
    )
    code, wall, cpu, peak, out, err = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{argv[0]} ended with exit code {code}: {err}")
    return Run(wall, cpu, peak, out, err)


def python_of(name: str) -> Path:
    """The Python of a tool's own environment: its dependencies are none of flowml's."""
    return CACHE / name / "bin" / "python"


def install(name: str, *wanted: str) -> None:
    """Makes a tool's environment, with exactly these versions in it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    python = python_of(name)
    if not python.exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", CACHE / name], check=True)
    quietly = ["install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", *quietly, *wanted], check=True, stdout=sys.stderr)


# --- what they count ------------------------------------------------------------------------------------


@dataclass
class Counts:
    """Of TCP over IPv4."""

    flows: int = 0
    segments: int = 0
    bytes: int = 0
    """Of IP packets; softflowd: with the padding of short frames; argus: of frames."""

    def add(self, flows: int, segments: int, size: int) -> None:
        self.flows += flows
        self.segments += segments
        self.bytes += size


def compare() -> Found:
    """What each counts of every real capture, and whether that is what it is known to count.

    To flowml a connection begins with a SYN and ends with its end. To the others a tuple is one flow,
    whatever it begins with and until it is silent: their segments are flowml's and those of no connection.
    """
    found = {name: Counts() for name in (FLOWML_TLS, SOFTFLOWD, "argus", NF)}
    wanted = {name: Counts() for name in found}
    for capture in merged():
        path = capture.path
        for line in capture.lines:
            sums = (int(line[f"s_{what}"] + line[f"d_{what}"]) for what in ("pkt_cnt", "bytes_sum"))
            found[FLOWML_TLS].add(1, *sums)
        octets, segments = softflowd_tcp(timed(TOOLS[SOFTFLOWD](path)).out)
        found[SOFTFLOWD].add(0, segments, octets)
        for one in (one for several in argus(path).values() for one in several):
            found["argus"].add(
                1, *(int(one[f"s{what}"]) + int(one[f"d{what}"]) for what in ("pkts", "bytes"))
            )
        counted = timed(TOOLS[NF](path)).out.splitlines()[-1]  # after a word on having one core
        found[NF].add(*map(int, counted.split()))
        for name, counts in expected(capture).items():
            wanted[name].add(counts.flows, counts.segments, counts.bytes)
    return {name: {**asdict(counts), "expected": asdict(wanted[name])} for name, counts in found.items()}


def softflowd_tcp(said: str) -> tuple[int, int]:
    """Octets and packets in its statistics."""
    found = re.search(r"tcp \(6\): +(\d+) +(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def expected(capture: Capture) -> dict[str, Counts]:
    """What each tool has to count, from the packets."""
    of = {name: Counts() for name in (FLOWML_TLS, SOFTFLOWD, "argus", NF)}
    for packets in capture.tuples.values():
        size = sum(packet.segment.ip_bytes for packet in packets)
        frames = sum(packet.frame_bytes for packet in packets)
        inside = [packet for packet in packets if packet.connection is not None]
        of["flowml"].add(0, len(inside), sum(packet.segment.ip_bytes for packet in inside))
        of["softflowd"].add(0, len(packets), frames - ETHERNET * len(packets))
        of["argus"].add(len(records_of(packets)), len(packets), frames)
        times = [packet.time_ns for packet in packets]
        silences = sum(later - earlier >= NFSTREAM_IDLE_S * NS_PER_S for earlier, later in pairwise(times))
        of["nfstream"].add(1 + silences, len(packets), size)
    of["flowml"].flows = len(capture.connections)
    return of


# --- how fast -------------------------------------------------------------------------------------------


def inside(path: Path, which: str, rounds: int) -> Found:
    """Seconds of CPU of a `flowml extract`, by part."""
    parts = ("until Python runs", "imports", "reading, features, lines")
    found: dict[str, list[float]] = {part: [] for part in parts}
    for _ in range(rounds):
        argv = [str(FLOWML.with_name("python")), "-c", INSIDE, str(path), which, str(time.time())]
        moments = json.loads(timed(argv).out)
        for part, (before, after) in zip(parts, pairwise(moments), strict=True):
            found[part].append(after[1] - before[1])
    return found


def measure(rounds: int) -> Found:
    """What they count, what they took, and how it compares."""
    if not captures():
        raise SystemExit("set FLOWML_TRACES to a folder of captures")
    install(NF, NFSTREAM)
    install(CIC, *CICFLOWMETER)
    counts = compare()
    took: dict[str, dict[str, list[Run]]] = {name: {"whole": [], "tenth": []} for name in (*TOOLS, CIC)}
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        paths = {"whole": folder / "whole.pcap", "tenth": folder / "tenth.pcap"}
        packets = {"tenth": write_merged(paths["tenth"], PACKETS // LONGER)}
        packets["whole"] = write_merged(paths["whole"], LONGER * packets["tenth"])
        few = folder / "few.pcap"
        few.write_bytes(frames.pcap(islice(one_after_the_other(), CIC_PACKETS)))
        for number in range(rounds):
            for tool in list(TOOLS)[number % len(TOOLS) :] + list(TOOLS)[: number % len(TOOLS)]:
                for length, path in paths.items():
                    took[tool][length].append(timed(TOOLS[tool](path)))
                print(f"round {number + 1}: {tool} {took[tool]['whole'][-1].wall_s:.2f} s", file=sys.stderr)
            if number < CIC_ROUNDS:
                took[CIC]["whole"].append(timed(cicflowmeter(few)))
        parts = {which: inside(paths["whole"], which, rounds) for which in ("tls", "tcp")}
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
    more = found["packets"]["whole"] - found["packets"]["tenth"]
    pairs = zip(seconds(found, tool, "cpu_s"), seconds(found, tool, "cpu_s", "tenth"), strict=True)
    return [1e9 * (whole - tenth) / more for whole, tenth in pairs]


def per_packet(found: Found, tool: str) -> float:
    """Median of the microseconds a packet, start and all."""
    packets: int = found["packets"]["few" if tool == CIC else "whole"]
    return 1e6 * statistics.median(seconds(found, tool, "wall_s")) / packets


def aims(found: Found) -> list[Found]:
    results = []
    for other, least in ((NF, 100), (SOFTFLOWD, 2.5)):
        times = {
            ours: statistics.median(ratios(seconds(found, other, "cpu_s"), seconds(found, ours, "cpu_s")))
            for ours in (FLOWML_TLS, FLOWML_TCP)
        }
        more = statistics.median(ratios(another_packet(found, other), another_packet(found, FLOWML_TLS)))
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
                spread(ratios(cpu, seconds(found, FLOWML_TLS, "cpu_s"))),
                spread(another_packet(found, tool), 0),
                f"{max(seconds(found, tool, 'peak_mb')):.0f}",
                f"{max(seconds(found, tool, 'peak_mb', 'tenth')):.0f}",
            ]
        )
    header = ("", "wall s", "CPU s", "million packets/s", "CPU, of flowml", "ns CPU for one more packet")
    text = f"{packets['whole']:,} packets; the short capture has {packets['tenth']:,}.\n\n"
    text += table((*header, "peak MB", "short: peak MB"), rows)
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
