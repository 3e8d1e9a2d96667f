"""Compiles and loads the C core, in a process of its own: the only module that imports bcc.

`loader.py` starts it as `python -I -m collector.compiler FD`, sends one request over the socket FD and
gets one answer, with the descriptors of the programs and maps attached; then this process ends, and with
it LLVM, which is most of what BCC costs in memory. Whatever compiler and verifier say goes to standard
error, which the loader keeps in a file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Any

from collector import kernel

PROGRAMS = ("flowml_xdp", "flowml_tc", "flowml_sweep")
MAPS = ("flows", "slots", "finished", "counters", "sweeps")

_SOURCE = "flowml.bpf.c"


def _include_flags(source: Path) -> list[str]:
    multiarch = sysconfig.get_config_var("MULTIARCH")
    folders = [str(source), "/usr/include"] + ([f"/usr/include/{multiarch}"] if multiarch else [])
    return [f"-I{folder}" for folder in folders]


def _layout(ctype: Any, prefix: str = "") -> dict[str, list[int]]:
    """Every leaf field that the compiler laid out: dotted name to [offset, size] in bytes."""
    import ctypes

    found: dict[str, list[int]] = {}
    for name, kind in ctype._fields_:
        place = getattr(ctype, name)
        count, inner = 1, kind
        if issubclass(kind, ctypes.Array) and issubclass(kind._type_, ctypes.Structure):
            count, inner = kind._length_, kind._type_
        if not issubclass(inner, ctypes.Structure):
            found[prefix + name] = [place.offset, place.size]
            continue
        for i in range(count):
            part = f"{prefix}{name}[{i}]." if inner is not kind else f"{prefix}{name}."
            for key, (at, size) in _layout(inner, part).items():
                found[key] = [place.offset + i * ctypes.sizeof(inner) + at, size]
    return found


def _load_xdp(bcc: Any, module: Any) -> int:
    """For packets of several buffers too, as jumbo frames are handed over; BCC cannot ask for that."""
    try:
        return kernel.load_xdp(PROGRAMS[0], module.dump_func(PROGRAMS[0]))
    except OSError:  # an older kernel; or something is wrong with the program, and BCC will say what
        return int(module.load_func(PROGRAMS[0], bcc.BPF.XDP).fd)


def _load(request: dict[str, Any]) -> tuple[dict[str, Any], list[int], Any]:
    source = Path(request["source"])
    os.environ["BCC_KERNEL_SOURCE"] = str(source / "uapi")
    try:
        import bcc
    except ImportError as error:
        return {"error": "bcc", "detail": str(error)}, [], None
    flags = [*_include_flags(source), *request["flags"]]
    module = bcc.BPF(src_file=str(source / _SOURCE), cflags=flags)
    fds = [_load_xdp(bcc, module)]
    fds += [module.load_func(name, bcc.BPF.SCHED_CLS).fd for name in PROGRAMS[1:]]
    fds += [module[name].map_fd for name in MAPS]
    answer = {
        "layout": {
            "flow": _layout(module["slots"].Leaf),
            "counters": _layout(module["counters"].sLeaf),
            "sweep": _layout(module["sweeps"].Leaf),
        }
    }
    return answer, fds, module


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    with channel, channel.makefile("r") as requests:
        for line in requests:
            try:
                answer, fds, module = _load(json.loads(line))
            except Exception as error:  # BCC raises nothing more specific; the loader reports it
                answer, fds, module = {"error": "compile", "detail": str(error)}, [], None
            socket.send_fds(channel, [json.dumps(answer).encode() + b"\n"], fds)
            del module  # the loader has its own descriptors by now


if __name__ == "__main__":
    main()
