"""Other tools that make flows of a capture: how they are run, each on the same core, and what that took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tool import FLOWML

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "peers"
NFSTREAM = "nfstream==6.6.0"
CICFLOWMETER = ("cicflowmeter==0.2.0", "scapy==2.5.0")  # with a later scapy it writes an empty file
NFSTREAM_IDLE_S = 120
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
        # As whoever installed a tool has it: compiled once, and not each time.
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
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
