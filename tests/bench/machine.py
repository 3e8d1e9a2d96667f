"""What a benchmark ran on: without that its numbers mean nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from tests.bench.rounds import Found

__all__ = ["describe", "markdown"]

_PACKAGES = ("numpy", "scikit-learn", "onnxruntime", "orjson")
_DEBIAN = ("python3-bpfcc", "iperf3", "sockperf", "softflowd", "argus-server")


def describe() -> Found:
    """The machine, its kernel and what it does against attacks, versions, and what else it is doing."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _said("git", "describe", "--always", "--dirty"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
        "mitigations": _mitigations(),
        "bpf_jit": _read("/proc/sys/net/core/bpf_jit_enable"),
        "bpf_stats": _read("/proc/sys/kernel/bpf_stats_enabled"),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "debian": {name: _said("dpkg-query", "-W", "-f", "${Version}", name) for name in _DEBIAN},
    }


def markdown(found: Found) -> str:
    """One paragraph."""
    mitigations = "; ".join(f"{name}: {how}" for name, how in found["mitigations"].items())
    versions = {"Python": found["python"], **found["packages"], **found["debian"]}
    return (
        f"{found['date']}, commit {found['commit']}. {found['cpu']}, {found['cores']} cores, "
        f"{found['memory_gb']} GB; Linux {found['kernel']}, BPF JIT {found['bpf_jit']}, "
        f"bpf_stats {found['bpf_stats']}; load average before: {found['load_average']:.1f}. "
        f"Mitigations: {mitigations}. "
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.\n"
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.+)", info)
    kind = re.search(r"cpu family\s*: (\d+)\nmodel\s*: (\d+)", info)
    name = found[1] if found else platform.machine()
    return f"{name} (family {kind[1]}, model {kind[2]})" if kind else name


def _mitigations() -> dict[str, str]:
    files = sorted(Path("/sys/devices/system/cpu/vulnerabilities").glob("*"))
    told = {file.name: file.read_text().strip() for file in files}
    return {name: how for name, how in told.items() if how != "Not affected"}


def _read(path: str) -> str:
    return Path(path).read_text().strip()


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
