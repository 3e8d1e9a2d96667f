"""flowml extract beside other tools that make flows of a capture, in the same run.

    python -m tests.bench.peers [PACKETS [ROUNDS [NFSTREAM_ROUNDS]]]

First what they count is compared, over every real capture. Then PACKETS (default two million) of merged
captures (tests/bench/merged.py) are read from the page cache, ROUNDS (default 5) times, nfstream
NFSTREAM_ROUNDS (default 2) times: the tools take turns, all on the same core, and ratios are of the same
round. Each does what it is for: softflowd counts packets and bytes and exports nothing, argus writes
handshakes and intervals as CSV, nfstream has its statistics on (its flows are iterated, not written), flowml
writes its lines. Nobody keeps them.

Needs softflowd, argus-server and argus-client; nfstream gets an environment of its own in .cache.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.bench.merged import write_merged
from tests.oracle import NS_PER_S
from tests.referees.seen import Capture, merged
from tests.referees.test_argus import argus, records_of
from tests.tool import FLOWML

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "peers"
NFSTREAM_VERSION = "6.6.0"
NFSTREAM_IDLE_S = 120
ETHERNET = 14  # bytes of the header
LONGER = 10  # times, for the peak of memory
CORE = str(max(os.sched_getaffinity(0)))

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

NFSTREAM = f"""
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

ARGUS = (
    'argus -X -m -J -R -S 86400 -r "$0" -w - | ra -r - -n -u -p 6 -c , -s stime saddr sport daddr dport '
    "smac dur spkts dpkts sbytes dbytes sttl dttl sload dload tcprtt synack ackdat sintpkt dintpkt - tcp "
    "> /dev/null"
)

TOOLS: dict[str, Callable[[Path], list[str]]] = {
    "flowml": lambda path: [str(FLOWML), "extract", str(path), "--outfile", "/dev/null"],
    "flowml --filter tcp": lambda path: [*TOOLS["flowml"](path), "--filter", "tcp"],
    "softflowd": lambda path: ["softflowd", "-r", str(path), "-c", "none", "-d"],
    "argus | ra": lambda path: ["sh", "-c", ARGUS, str(path)],
    "nfstream": lambda path: [str(CACHE / "venv" / "bin" / "python"), "-c", NFSTREAM, str(path)],
}


@dataclass(frozen=True)
class Run:
    """What a command took, and what it said."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    out: str
    err: str


def measure(argv: Sequence[str]) -> Run:
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


def install_nfstream() -> None:
    """Its own environment: its dependencies are none of flowml's."""
    CACHE.mkdir(parents=True, exist_ok=True)
    python = CACHE / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", CACHE / "venv"], check=True)
    wanted = f"nfstream=={NFSTREAM_VERSION}"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True, stdout=sys.stderr)


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

    def __str__(self) -> str:
        return f"{self.flows or '-':>9} flows {self.segments:>11,} segments {self.bytes:>14,} bytes"


def compare() -> None:
    """Prints what each counts of every real capture; ends in an error where one is not as expected.

    To flowml a connection begins with a SYN and ends with its end. To the others a tuple is one flow,
    whatever it begins with and until it is silent: their segments are flowml's and those of no connection.
    """
    found = {name: Counts() for name in ("flowml", "softflowd", "argus", "nfstream")}
    wanted = {name: Counts() for name in found}
    for capture in merged():
        path = capture.path
        for line in capture.lines:
            sums = (int(line[f"s_{what}"] + line[f"d_{what}"]) for what in ("pkt_cnt", "bytes_sum"))
            found["flowml"].add(1, *sums)
        octets, segments = softflowd_tcp(measure(TOOLS["softflowd"](path)).out)
        found["softflowd"].add(0, segments, octets)
        for one in (one for several in argus(path).values() for one in several):
            found["argus"].add(
                1, *(int(one[f"s{what}"]) + int(one[f"d{what}"]) for what in ("pkts", "bytes"))
            )
        counted = measure(TOOLS["nfstream"](path)).out.splitlines()[-1]  # after a word on having one core
        found["nfstream"].add(*map(int, counted.split()))
        for name, counts in expected(capture).items():
            wanted[name].add(counts.flows, counts.segments, counts.bytes)
    print(
        "every real capture, TCP over IPv4 (bytes of IP packets; softflowd: and of padding; argus: of frames)"
    )
    for name, counts in found.items():
        print(f"  {name:<20}{counts}  {'as expected' if counts == wanted[name] else wanted[name]}")
    outside = found["nfstream"].segments - found["flowml"].segments
    print(f"  of no connection of flowml's: {outside:,} segments, most of them the ACK after both FINs")
    if found != wanted:
        raise SystemExit("the tools do not count what they are known to count: see above")


def softflowd_tcp(said: str) -> tuple[int, int]:
    """Octets and packets in its statistics."""
    found = re.search(r"tcp \(6\): +(\d+) +(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def expected(capture: Capture) -> dict[str, Counts]:
    """What each tool has to count, from the packets."""
    of = {name: Counts() for name in ("flowml", "softflowd", "argus", "nfstream")}
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


def inside(path: Path, which: str, rounds: int) -> None:
    """Prints what of a `flowml extract` goes where."""
    wall_and_cpu = []
    for _ in range(rounds):
        argv = [str(FLOWML.with_name("python")), "-c", INSIDE, str(path), which, str(time.time())]
        moments = json.loads(measure(argv).out)
        wall_and_cpu.append(
            [[after[clock] - before[clock] for before, after in pairwise(moments)] for clock in (0, 1)]
        )
    for clock, name in enumerate(("wall", "CPU")):
        parts = zip(*(one[clock] for one in wall_and_cpu), strict=True)
        names = ("until Python runs", "imports", "reading, features, lines")
        shown = "; ".join(f"{part} {spread(took)} s" for part, took in zip(names, parts, strict=True))
        print(f"  flowml --filter {which}, inside, {name}: {shown}")


def in_turns(path: Path, rounds: int, nfstream_rounds: int) -> dict[str, list[Run]]:
    """Every tool once a round; nfstream as long as it has rounds."""
    runs: dict[str, list[Run]] = {name: [] for name in TOOLS}
    for number in range(max(rounds, nfstream_rounds)):
        for name, argv in TOOLS.items():
            if number < (nfstream_rounds if name == "nfstream" else rounds):
                runs[name].append(measure(argv(path)))
                print(f"round {number + 1}: {name} {runs[name][-1].wall_s:.2f} s", file=sys.stderr)
    return runs


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the range."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def cpu() -> str:
    """Its name."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def table(packets: int, runs: dict[str, list[Run]], short: dict[str, Run]) -> None:
    """Prints times, ratios and peaks."""
    print(
        f"  {'':<20}{'wall s':>24}{'CPU s':>24}{'packets/s':>12}"
        f"{'wall, of flowml':>24}{'CPU, of flowml':>24}{'peak MB':>9}{'at 1/10':>9}"
    )
    for name, ones in runs.items():
        if not ones:
            continue
        both = list(zip(ones, runs["flowml"], strict=False))
        wall = [one.wall_s for one in ones]
        print(
            f"  {name:<20}{spread(wall):>24}{spread([one.cpu_s for one in ones]):>24}"
            f"{packets / statistics.median(wall):>12,.0f}"
            f"{spread([one.wall_s / ours.wall_s for one, ours in both]):>24}"
            f"{spread([one.cpu_s / ours.cpu_s for one, ours in both]):>24}"
            f"{max(one.peak_mb for one in ones):>9.0f}{short[name].peak_mb:>9.0f}"
        )


def main() -> None:
    asked, rounds, nfstream_rounds = [*map(int, sys.argv[1:4]), *(2_000_000, 5, 2)[len(sys.argv) - 1 :]]
    install_nfstream()
    compare()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        race(Path(folder), asked, rounds, nfstream_rounds)


def race(folder: Path, asked: int, rounds: int, nfstream_rounds: int) -> None:
    """Writes the captures, has all tools read them, and prints what they took."""
    one_tenth, whole = folder / "one-tenth.pcap", folder / "whole.pcap"
    packets = write_merged(whole, LONGER * write_merged(one_tenth, asked // LONGER))
    short = {name: measure(argv(one_tenth)) for name, argv in TOOLS.items()}
    runs = in_turns(whole, rounds, nfstream_rounds)
    print(
        f"{packets:,} packets, {whole.stat().st_size / 1e6:,.0f} MB, from the page cache; one core of "
        f"{os.cpu_count()}, {cpu()}, Linux {platform.release()}; median and range of the rounds"
    )
    table(packets, runs, short)
    for which in ("tls", "tcp"):
        inside(whole, which, rounds)


if __name__ == "__main__":
    main()
