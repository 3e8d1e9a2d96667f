"""Memory is bounded by the table, not by the capture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np

from tests.frames import pcap, tcp
from tests.oracle import NS_PER_MS, NS_PER_S
from tests.tool import FLOWML

MAX_CONNECTIONS = 10_000
CONNECTIONS = 150_000  # more than wait in memory to be put in order, see collector/order.py
MAY_GROW_KIB = 8 * 1024
BEGIN = 1_700_000_000 * NS_PER_S
ONE_A = NS_PER_MS  # connection

# The process in between is small. What is started from a large one is as large for a moment, and that counts.
MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([code, peak]), file=sys.stderr)
"""


def write_connections(to: IO[bytes], count: int) -> None:
    """A capture of so many connections, one a millisecond, each of a tuple of its own.

    Every other one is reset 2 ms after its SYN; of the rest nothing more is heard, so they time out.
    """
    to.write(pcap([]))
    record = pcap([(BEGIN, tcp("S"))])[24:]
    shape = np.dtype([("s", "<u4"), ("ns", "<u4"), ("lengths", "V8"), ("frame", "u1", len(record) - 16)])
    at_once = 50_000
    for first in range(0, count, at_once):
        number = np.arange(first, min(first + at_once, count))
        packets = np.repeat(np.frombuffer(record, shape), 2 * len(number))
        is_reset = np.arange(len(packets)) % 2 == 1
        # The packet after a SYN is the reset of the connection two before, if that is one with a reset.
        whose = np.repeat(number, 2) - 2 * is_reset
        kept = ~is_reset | ((whose >= 0) & (whose % 2 == 0))
        time_ns = BEGIN + np.repeat(number, 2) * ONE_A + is_reset
        packets["s"], packets["ns"] = time_ns // NS_PER_S, time_ns % NS_PER_S
        packets["frame"][:, 14 + 13] = whose >> 16 & 0xFF  # in the source's address, and its port
        packets["frame"][:, 34] = whose >> 8 & 0xFF
        packets["frame"][:, 35] = whose & 0xFF
        packets["frame"][is_reset, 47] = 0x04
        to.write(packets[kept].tobytes())


def peak_kib(capture: Path, outfile: Path, count: int) -> int:
    """Of `flowml extract`, which has to find them all."""
    options = ("--filter", "tcp", "--max-connections", str(MAX_CONNECTIONS), "--outfile", outfile)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, FLOWML, "extract", capture, *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *said, measured = done.stderr.splitlines()
    assert said[-1] == f"Done. Processed {count} connections"
    assert "note" not in done.stderr
    code, peak = json.loads(measured)
    assert code == 0
    return int(peak)


def test_a_capture_ten_times_as_long_needs_no_more_memory(tmp_path: Path) -> None:
    """1.5 million connections through a table of 10,000, in order; half of them never end by themselves."""
    peaks = []
    for times in (1, 10):
        path = tmp_path / "connections.pcap"
        with path.open("wb") as file:
            write_connections(file, times * CONNECTIONS)
        peaks.append(peak_kib(path, Path("/dev/null"), times * CONNECTIONS))
    assert peaks[1] - peaks[0] < MAY_GROW_KIB, peaks
