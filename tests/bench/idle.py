"""What flowml costs while nothing happens, and where its memory is.

    python -m tests.bench.idle [MODEL.joblib [SECONDS]]

`flowml attach` with the model, or `flowml collect` without, on one end of a quiet veth pair; with --metrics,
and scraped once every 15 s. The processor time is the kernel's count for the whole process, and the memory
/proc/PID/smaps by what is mapped: private is what would be free without this process. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections import Counter
from pathlib import Path

from tests.lab import veth_pair
from tests.tool import flowml

_SCRAPE_S = 15
_ADDRESS = "127.0.0.1:9464"
_FETCH = f"import urllib.request as r; r.urlopen('http://{_ADDRESS}/metrics').read()"
_KINDS = (
    ("torch", r"/torch/"),
    ("scikit-learn and scipy", r"/(sklearn|scipy|scikit_learn|scipy\.libs)"),
    ("onnxruntime and onnx", r"/(onnxruntime|onnx)"),
    ("numpy and OpenBLAS", r"/numpy"),
    ("other Python extensions", r"\.so.*|site-packages"),
    ("BPF maps", r"anon_inode:bpf-map"),
    ("heap and other anonymous memory", r"^$|\[heap\]|\[stack\]|\[anon"),
)


def memory(pid: int) -> dict[str, dict[str, float]]:
    """MB by what is mapped: resident, and of that private."""
    resident: Counter[str] = Counter()
    private: Counter[str] = Counter()
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = "".join(line.split(maxsplit=5)[5:])
            kind = next((kind for kind, pattern in _KINDS if re.search(pattern, name)), "Python itself")
        elif line.startswith("Rss:"):
            resident[kind] += int(line.split()[1])
        elif line.startswith("Private_"):
            private[kind] += int(line.split()[1])
    ranked = [kind for kind, _ in resident.most_common()]
    resident["all"], private["all"] = resident.total(), private.total()
    return {
        kind: {"resident": round(resident[kind] / 1000, 1), "private": round(private[kind] / 1000, 1)}
        for kind in [*ranked, "all"]
    }


def cpu_s(pid: int) -> float:
    """Processor time that all threads of the process have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(model: Path | None, seconds: float) -> dict[str, object]:
    """One run."""
    how = ("collect",) if model is None else ("attach", "--model", model)
    with (
        veth_pair() as wire,
        flowml(wire.right, *how, wire.right.iface, "--metrics", _ADDRESS) as running,
    ):
        time.sleep(5)  # what starting costs is not what running costs
        pid = running.process.pid
        begin, before = time.monotonic(), cpu_s(pid)
        while (left := begin + seconds - time.monotonic()) > 0:
            wire.right.run([sys.executable, "-c", _FETCH])
            time.sleep(max(0.0, min(_SCRAPE_S, left)))
        passed, took = time.monotonic() - begin, cpu_s(pid) - before
        found = memory(pid)
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    return {
        "command": how[0],
        "seconds": round(passed),
        "cpu_percent_of_a_core": round(100 * took / passed, 2),
        "threads": threads,
        "memory_mb": found,
        "kernel": platform.release(),
    }


def main() -> None:
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    print(json.dumps(measure(model, float(sys.argv[2]) if len(sys.argv) > 2 else 60.0), indent=1))


if __name__ == "__main__":
    main()
