"""BPF programs that walk over many flows: flowml's own, and those it is compared with (`bpf/`).

A packet of BPF_PROG_TEST_RUN would be of one flow, whose memory is always in the cache. So the frame steps on
by itself (`bpf/walk.h`): each run finds the address of the next flow in it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector import compiler, kernel
from collector.drain import FlowTable
from collector.folders import bpf_folder
from collector.loader import Compiler, compile_flags
from tests import frames

__all__ = ["BPF", "Programs", "Walk", "baseline", "flowml", "load", "settings", "step", "walk_frame"]

BPF = Path(__file__).parent / "bpf"
SERVER = "192.0.2.1"
PAYLOAD = 10
WALK_AT = 64  # walk.h
_ENTRIES = re.compile(r"int flowml_(xdp|tc)\(struct (?:xdp_md|__sk_buff) \*(ctx|skb)\)\n\{\n")
_SCATTERED = (0x9E3779B5, 0x7F4A7C15)  # a = 1 mod 4 and c odd: every number below a power of two comes once
_ONE_BY_ONE = (1, 1)


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk over `flows` flows, a power of two: scattered, or as they are numbered."""

    flows: int
    scattered: bool = True
    first: int = 0


def walk_frame(flags: str, walk: Walk) -> bytes:
    """The frame that begins a walk; behind its payload lies, as padding, how it goes on."""
    assert walk.flows & (walk.flows - 1) == 0
    address = (10 << 24) + walk.first
    source = ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
    # A SYN is sequence number 1, data come long after the bytes that show a ClientHello.
    payload, seq = (b"", 1) if "S" in flags else (bytes(PAYLOAD), 100_000)
    frame = frames.tcp(flags, payload, src=source, dst=SERVER, seq=seq).ljust(WALK_AT, b"\0")
    multiplier, increment = _SCATTERED if walk.scattered else _ONE_BY_ONE
    return frame + struct.pack("=III", multiplier, increment, walk.flows - 1)


def step(prog_fd: int, flags: str, walk: Walk, runs: int) -> int:
    """Runs a program on `runs` packets of a walk; nanoseconds a run, whole ones, as the kernel counts them.

    The kernel's own time, without what it takes to set the runs up.
    """
    frame = walk_frame(flags, walk)
    data = ctypes.create_string_buffer(frame, len(frame))
    # union bpf_attr, test: prog_fd, retval, data_size_in, _out, data_in, _out, repeat, duration, ...
    attr = kernel._attr(
        "IIIIQQIIIIQQIII",
        *(prog_fd, 0, len(frame), 0, ctypes.addressof(data), 0, runs, 0, 0, 0, 0, 0, 0, 0, 0),
    )
    kernel._bpf(kernel._PROG_TEST_RUN, attr)
    duration: int = struct.unpack_from("=I", attr.raw, 36)[0]
    return duration


def settings(*, max_connections: int, ring_bytes: int = 1 << 24, **more: Any) -> list[str]:
    """Flags for flowml's core; `more` are further arguments of `compile_flags`."""
    return compile_flags(
        max_connections=max_connections,
        ring_bytes=ring_bytes,
        tcp_establish_timeout=3_600_000,
        tcp_inactivity_timeout=3_600_000,
        tls_only=False,
        **more,
    )


@dataclass(slots=True)
class Programs:
    """An XDP and a TC program, and what has to live as long as they do."""

    ingress: int
    egress: int
    table: FlowTable | None = None
    module: Any = None

    def fd(self, hook: str) -> int:
        return {"XDP": self.ingress, "TC": self.egress}[hook]

    def open(self, flows: int) -> None:
        """Opens as many flows, in the order of their numbers; a scattered walk meets them in another."""
        step(self.egress, "S", Walk(flows, scattered=False), flows)

    def close(self) -> None:
        if self.table is not None:
            os.close(self.ingress)
            os.close(self.egress)
            self.table.close()
        elif self.module is not None:
            self.module.cleanup()


def flowml(flags: Sequence[str], *, max_connections: int) -> Programs:
    """flowml's own core, its source as it is, but that its two hooks have the frame step on first."""
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as name:
        folder = Path(name) / "bpf"
        shutil.copytree(bpf_folder(), folder)
        shutil.copy(BPF / "walk.h", folder)
        core = folder / "flowml.bpf.c"
        text, changed = _ENTRIES.subn(_walking, core.read_text())
        assert changed == 2, "the hooks of flowml.bpf.c are not found"
        core.write_text(text.replace('#include "table.h"\n', '#include "table.h"\n#include "walk.h"\n'))
        with Compiler(folder) as compiling:
            loaded = compiling.load(flags, max_connections=max_connections)
    return Programs(loaded.xdp_fd, loaded.tc_fd, loaded.table)


def _walking(entry: re.Match[str]) -> str:
    context = entry[2]
    data = f"(__u8 *)(long){context}->data, (const __u8 *)(long){context}->data_end"
    return f"{entry[0]}\twalk_on({data});\n"


def baseline(*flags: str) -> Programs:
    """`bpf/baselines.bpf.c`, compiled as flowml is."""
    module = load("baselines.bpf.c", *flags)
    ingress = module.load_func("baseline_ingress", module.XDP).fd
    egress = module.load_func("baseline_egress", module.SCHED_CLS).fd
    return Programs(ingress, egress, module=module)


def load(source: str, *flags: str) -> Any:
    """A BCC module of a file in `bpf/`, compiled with the headers that flowml is compiled with."""
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_folder() / "uapi")
    import bcc

    includes = [f"-I{BPF}", *compiler._include_flags(bpf_folder())]
    return bcc.BPF(src_file=str(BPF / source), cflags=[*includes, *flags])
