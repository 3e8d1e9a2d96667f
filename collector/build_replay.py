"""Builds `collector._replay`, the C core on the CPU, when the package is built (setup.py).

The declarations are those of the headers themselves: the flow's of bpf/flow.h, the calls' of bpf/replay.h.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

BPF = Path(__file__).resolve().parent.parent / "bpf"
TYPES = "typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;"
MORE_TYPES = "typedef int64_t __s64; typedef uint16_t __be16; typedef uint32_t __be32;"
FLOW = ("enum side", "struct flow_side", "struct flow_key", "struct flow")


def declaration(header: str, name: str) -> str:
    """One enum or struct of a header, as it stands there."""
    found = re.search(rf"^{name} \{{.*?\}};", header, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"bpf/flow.h has no {name}")
    return found[0]


def between_dashes(header: str) -> str:
    """The part of a header that stands between its two lines of dashes."""
    return re.split(r"^/\* -+ \*/$", header, flags=re.MULTILINE)[1]


flow_h, replay_h = (BPF / "flow.h").read_text(), (BPF / "replay.h").read_text()

builder = FFI()
builder.cdef(TYPES + MORE_TYPES)
builder.cdef("\n".join(declaration(flow_h, name) for name in FLOW))
builder.cdef(between_dashes(replay_h))
builder.set_source(
    "collector._replay",
    '#include "replay.h"',
    sources=["bpf/replay.c", "bpf/capture.c"],
    depends=sorted(f"bpf/{header.name}" for header in BPF.glob("*.h")),
    include_dirs=["bpf"],
    libraries=["pcap", "z", "zstd"],
    extra_compile_args=["-std=gnu11", "-O3", "-Wall", "-Wno-unused-function"],
)
