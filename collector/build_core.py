"""Builds what of the collector is C, with the package (setup.py): the core on the CPU, and the lines.

The declarations are those of the headers themselves: the flow's of bpf/flow.h, and of bpf/replay.h and
collector/lines.h what stands between their lines of dashes.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
TYPES = """
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;
typedef int64_t __s64; typedef uint16_t __be16; typedef uint32_t __be32;
"""
FLOW = ("enum side", "struct flow_side", "struct flow_ends", "struct flow")


def declaration(header: str, name: str) -> str:
    """One enum or struct of a header, as it stands there."""
    found = re.search(rf"^{name} \{{.*?\}};", header, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"bpf/flow.h has no {name}")
    return found[0]


def between_dashes(header: Path) -> str:
    """The part of a header that stands between its two lines of dashes."""
    return re.split(r"^/\* -+ \*/$", header.read_text(), flags=re.MULTILINE)[1]


def module(name: str, header: str, sources: list[str], libraries: list[str]) -> FFI:
    """The extension module `name` for the calls that a header declares."""
    flow = (ROOT / "bpf" / "flow.h").read_text()
    builder = FFI()
    builder.cdef(TYPES)
    builder.cdef("\n".join(declaration(flow, one) for one in FLOW))
    builder.cdef(between_dashes(ROOT / header))
    builder.set_source(
        name,
        f'#include "{Path(header).name}"',
        sources=sources,
        depends=[header, *sorted(f"bpf/{one.name}" for one in (ROOT / "bpf").glob("*.h"))],
        include_dirs=["bpf", "collector"],
        libraries=libraries,
        extra_compile_args=[
            "-std=gnu11",
            "-O3",
            "-Wall",
            "-Wno-unused-function",
            "-fvisibility=hidden",
            "-flto=auto",
        ],
        extra_link_args=["-O3", "-flto=auto"],
    )
    return builder


CORE = ["bpf/replay.c", "bpf/narrow.c", "bpf/capture.c", "bpf/stream.c"]

replay = module("collector._replay", "bpf/replay.h", CORE, ["pcap", "z", "zstd"])
lines = module("collector._lines", "collector/lines.h", ["collector/lines.c"], [])
