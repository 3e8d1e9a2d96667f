"""Which kernel functions flowml's hooks call for one packet, as counted while the kernel runs them.

The compiled program gets a counter before each call, the kernel verifies and translates it as ever, and the
packet is run through it once. What the kernel has put in the place of a call, as it does with a look-up in an
array, is no call any more: which ones still are is read from the translated program.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector import compiler, kernel
from collector.drain import FlowTable
from collector.folders import bpf_folder
from tests import frames
from tests.bench import walking

__all__ = ["calls_of_a_known_flow", "info", "with_counters"]

TABLE = 1024
HOOKS = {"XDP": ("flowml_xdp", 6), "TC": ("flowml_tc", 3)}
"""Name and type (<linux/bpf.h>) of the program behind each."""

_MAP_CREATE, _PROG_LOAD, _OBJ_GET_INFO_BY_FD = 0, 5, 15
_ARRAY = 2
_INSN = struct.Struct("=BBhi")  # code; source and destination; offset; immediate
_CALL, _EXIT, _WIDE = 0x85, 0x95, 0x18
_JUMPS = (0x05, 0x06)  # classes of instructions
_LOCAL, _MAP_VALUE = 1, 2  # sources: a call within the program; the address of a value
_COUNTER_LENGTH = 5


@dataclass(frozen=True, slots=True)
class Insn:
    """One instruction of BPF."""

    code: int
    registers: int
    offset: int
    immediate: int

    @property
    def source(self) -> int:
        return self.registers >> 4

    def packed(self) -> bytes:
        return _INSN.pack(self.code, self.registers, self.offset, self.immediate)


def insns(program: bytes) -> list[Insn]:
    return [Insn(*fields) for fields in _INSN.iter_unpack(program)]


def _counter(map_fd: int, number: int) -> bytes:
    """Adds one to a counter. Before a call r0 is free, and r5 where there is no fifth argument: no call in
    the core has one."""
    parts = (
        Insn(_WIDE, _MAP_VALUE << 4, 0, map_fd),  # r0 = &counters[number]
        Insn(0, 0, 0, 8 * number),
        Insn(0x79, 0x05, 0, 0),  # r5 = *r0
        Insn(0x07, 0x05, 0, 1),  # r5 += 1
        Insn(0x7B, 0x50, 0, 0),  # *r0 = r5
    )
    assert len(parts) == _COUNTER_LENGTH
    return b"".join(part.packed() for part in parts)


def with_counters(program: bytes, map_fd: int) -> bytes:
    """The program with the counter of its own number before each call, and every jump where it went."""
    before = insns(program)
    calls = [at for at, insn in enumerate(before) if insn.code == _CALL]
    assert all(before[at].source != _LOCAL for at in calls), "a call within the program"
    moved, number = [], 0
    for at in range(len(before) + 1):
        moved.append(at + _COUNTER_LENGTH * number)
        number += number < len(calls) and calls[number] == at
    found = b""
    for at, insn in enumerate(before):
        if insn.code == _CALL:
            found += _counter(map_fd, calls.index(at))
        elif insn.code & 7 in _JUMPS and insn.code != _EXIT:
            assert insn.code != _JUMPS[1], "a jump whose distance is not in its offset"
            offset = moved[at + 1 + insn.offset] - moved[at + 1]
            insn = Insn(insn.code, insn.registers, offset, insn.immediate)
        found += insn.packed()
    return found


def still_calls(program: Sequence[Insn], map_id: int) -> dict[int, int]:
    """Of the translated program: what is called behind each counter, where something still is."""
    found = {}
    for at, insn in enumerate(program):
        if insn.code == _WIDE and insn.source == _MAP_VALUE and insn.immediate == map_id:
            behind = program[at + _COUNTER_LENGTH]
            if behind.code == _CALL:
                found[program[at + 1].immediate // 8] = behind.immediate
    return found


def info(fd: int, wanted: bytes = b"") -> bytes:
    """What the kernel says of a program or a map; `wanted` is what it finds where it will say it."""
    said = ctypes.create_string_buffer(wanted, 256)
    kernel._bpf(_OBJ_GET_INFO_BY_FD, kernel._attr("IIQ", fd, len(said), ctypes.addressof(said)))
    return said.raw


def translated(prog_fd: int) -> list[Insn]:
    """A program as the kernel made it of what it was given."""
    (length,) = struct.unpack_from("=I", info(prog_fd), 20)  # struct bpf_prog_info
    room = ctypes.create_string_buffer(length)
    info(prog_fd, struct.pack("=20xIQQ", length, 0, ctypes.addressof(room)))
    return insns(room.raw)


def _load(kind: int, program: bytes) -> int:
    code, terms = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"GPL")
    size = len(program) // _INSN.size
    return kernel._bpf(
        _PROG_LOAD, kernel._attr("IIQQ", kind, size, ctypes.addressof(code), ctypes.addressof(terms))
    )


class Names:
    """Names of what translated programs call: the immediate is an address, counted from one that is named."""

    def __init__(self) -> None:
        lines = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
        self._at = {int(address, 16): name for address, _, name, *_ in lines}
        (self._base,) = (address for address, name in self._at.items() if name == "__bpf_call_base")

    def of(self, immediate: int) -> str:
        return self._at[self._base + immediate]


@contextmanager
def _compiled(source: Path) -> Iterator[Any]:
    """The core's module, its stack of free slots filled."""
    flags = walking.settings(max_connections=TABLE)
    answer, fds, module = compiler._load({"source": str(source), "flags": flags})
    assert module is not None, answer
    xdp, _, sweep, _, slots, finished, counters, sweeps = fds
    kept = [os.dup(fd) for fd in (sweep, slots, finished, counters, sweeps)]  # the table closes its own
    names = ("sweep_fd", "slots_fd", "ring_fd", "counters_fd", "sweeps_fd")
    table = FlowTable(**dict(zip(names, kept, strict=True)), max_connections=TABLE)
    table.fill()
    try:
        yield module
    finally:
        table.close()
        os.close(xdp)
        module.cleanup()


def calls_of_a_known_flow(source: Path | None = None) -> dict[str, dict[str, int]]:
    """By hook and side: calls by name, of a data segment of a connection that is in the table."""
    found, names = {}, Names()
    with _compiled(source or bpf_folder()) as module:
        for number, (hook, (name, kind)) in enumerate(HOOKS.items()):
            program = module.dump_func(name)
            size = 8 * sum(insn.code == _CALL for insn in insns(program))
            counters = kernel._bpf(_MAP_CREATE, kernel._attr("IIIII", _ARRAY, 4, size, 1, 0))
            (map_id,) = struct.unpack_from("=I", info(counters), 4)  # struct bpf_map_info
            fd = _load(kind, with_counters(program, counters))
            calls = still_calls(translated(fd), map_id)
            for side, segments in _connection(port=1000 + number).items():
                for frame in segments:
                    before = _numbers(kernel.lookup(counters, bytes(4), size))
                    kernel.run_program(fd, frame=frame)
                    after = _numbers(kernel.lookup(counters, bytes(4), size))
                made: Counter[str] = Counter()
                for at, immediate in calls.items():
                    made[names.of(immediate)] += after[at] - before[at]
                found[f"{hook}, {side}"] = dict(+made)
            os.close(fd)
            os.close(counters)
    return found


def _connection(port: int) -> dict[str, list[bytes]]:
    """Its segments; the last of each side are the data that are looked at."""
    client, server = (frames.CLIENT[0], port), frames.SERVER

    def there(flags: str, payload: bytes = b"", seq: int = 1) -> bytes:
        return frames.tcp(flags, payload, sport=port, seq=seq)

    def back(flags: str, payload: bytes = b"", seq: int = 1) -> bytes:
        (src, sport), (dst, dport) = server, client
        return frames.tcp(flags, payload, src=src, sport=sport, dst=dst, dport=dport, seq=seq)

    return {
        "originator": [there("S"), back("SA"), there("A", seq=2), there("PA", bytes(10), seq=100_000)],
        "responder": [back("PA", bytes(10), seq=100_000)] * 2,
    }


def _numbers(values: bytes) -> list[int]:
    return [number for (number,) in struct.iter_unpack("=Q", values)]
