"""The numpy mirror of bpf/flow.h: flows as they come out of the kernel.

`loader.py` compares these dtypes, field by field, with what was compiled and refuses to start when they
differ; nothing else in Python knows an offset.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.errors import AbiError

__all__ = [
    "COUNTERS",
    "FATES",
    "FLOW",
    "IP_VERSIONS",
    "SWEEP",
    "Needs",
    "Reason",
    "Rows",
    "Sides",
    "check_layout",
    "is_tls",
    "joined",
    "packets",
    "raw",
    "sides",
    "ttl_sum",
]

Rows = npt.NDArray[Any]
"""A structured array of dtype `FLOW`, shape (n_flows,)."""

Sides = dict[str, npt.NDArray[np.uint64]]
"""The fields of `SIDE` by name, each of shape (2, n_flows), the originator's first, as unsigned words."""

SIDE = np.dtype(
    [
        ("gate", "<u8"),
        ("bytes", "<u8"),
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("handshake_ns", "<u8"),
        ("ttl_excess", "<i8"),
        ("ttl_first", "<u8"),
        ("hello", "<u8"),
    ]
)

ENDS = np.dtype(
    [("low_addr", "u1", (16,)), ("high_addr", "u1", (16,)), ("low_port", ">u2"), ("high_port", ">u2")]
)

FLOW = np.dtype(
    [
        ("side", SIDE, (2,)),
        ("ends", ENDS),
        ("stream_start", "<u4"),
        ("ending", "<u8"),
        ("slot", "<u4"),
        ("source_mac", "u1", (6,)),
        ("reason", "u1"),
        ("originator_is_high", "u1"),
        ("parked", "u1"),
        ("no_mac", "u1"),
        ("ip_version", "u1"),
        ("reserved", "u1"),
    ]
)

SWEEP = np.dtype([("high_water", "<u8"), ("victim", "<u8"), ("next", "<u4"), ("mode", "<u4")])

FATES = (
    "tracked",
    "untracked",
    "table_full",
    "contended",
    "not_ip",
    "ipv4",
    "ipv6",
    "not_tcp",
    "fragment",
    "malformed",
    "truncated",
)
"""What became of a packet: exactly one of these for each packet that a hook saw."""

EVENTS = ("opened", "delivered", "filtered", "evicted", "parked")

COUNTERS = np.dtype([(name, "<u8") for name in FATES + EVENTS])

ORIGINATOR, RESPONDER = 0, 1

IP_VERSIONS = {"4": 4, "6": 6, "both": 46}
"""What the core takes for which versions of IP it looks at (`FLOWML_IP` of flow.h)."""

_WHOLE = np.dtype((np.void, FLOW.itemsize))
_SEGMENT_SHIFT, _SEGMENT_MASK = np.uint64(12), np.uint64((1 << 36) - 1)
SEGMENTS = _SEGMENT_MASK << _SEGMENT_SHIFT
"""Of a gate, the bits that count segments; the rest says who is in the slot just now."""

_ADDRESSES = ("low_addr", "high_addr")
_TTL_SEEN = 256
_HELLO_MASK = 0x0000FF000000FFFF


class Reason(enum.IntEnum):
    """Why a flow ended (`enum reason` of flow.h)."""

    FIN = 1
    RST = 2
    IDLE = 3
    ESTABLISH = 4
    SHUTDOWN = 5
    EVICTED = 6


class Needs(enum.IntFlag):
    """What of a flow is kept beside its counts, its times and its end (`NEED_...` of flow.h)."""

    NONE = 0
    BYTES = 1
    TTL = 2
    HANDSHAKE = 4
    FIRST = 8
    HELLO = 16
    ALL = 31


class SweepMode(enum.IntEnum):
    """What a sweep does with a slot (`enum sweep_mode` of flow.h)."""

    FILL = 0
    TIMEOUT = 1
    SHUTDOWN = 2
    MAKE_ROOM = 3
    """The core's own: not for user space."""


def raw(rows: Rows) -> npt.NDArray[np.void]:
    """The same rows in the same memory, each as bytes, for numpy to copy whole and not field by field."""
    return np.ascontiguousarray(rows).view(_WHOLE)


def joined(parts: Iterable[Rows]) -> Rows:
    """The rows of all parts, as they lie. (`np.concatenate` would turn ports into this machine's order.)"""
    return np.concatenate([np.empty(0, _WHOLE), *map(raw, parts)]).view(FLOW)


def sides(rows: Rows) -> Sides:
    """Both directions of each flow, field by field of `SIDE`."""
    each, fields = FLOW.itemsize // 8, SIDE.itemsize // 8
    words = np.ascontiguousarray(rows).view("<u8").reshape(len(rows), each)
    of_sides = words[:, : 2 * fields].reshape(len(rows), 2, fields)
    return dict(zip(SIDE.names or (), np.ascontiguousarray(of_sides.T), strict=True))


def packets(of: Sides) -> npt.NDArray[np.uint64]:
    """Segments that each side sent, shape (2, n_flows)."""
    return (of["gate"] >> _SEGMENT_SHIFT) & _SEGMENT_MASK


def ttl_sum(of: Sides, packets: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Sum of the TTLs of each side's segments, shape (2, n_flows).

    The kernel keeps the first TTL and the sum of the differences from it, which is nearly always 0.
    """
    first = of["ttl_first"].view(np.int64)
    total = (first - _TTL_SEEN) * packets.view(np.int64) + of["ttl_excess"].view(np.int64)
    total[first == 0] = 0
    return total


def is_tls(rows: Rows) -> npt.NDArray[np.bool_]:
    """Whether the originator's stream begins with a TLS ClientHello, shape (n_flows,)."""
    tls: npt.NDArray[np.bool_] = rows["side"][:, ORIGINATOR]["hello"] == _HELLO_MASK
    return tls


def endpoints(rows: Rows) -> tuple[Rows, Rows, Rows, Rows]:
    """Originator's address and port, responder's address and port, each of shape (n_flows,).

    Addresses are 16 bytes in network order, dtype ``S16``; those of IPv4 are written as ::ffff:a.b.c.d.
    """
    ends, high = rows["ends"], rows["originator_is_high"].astype(bool)
    low_addr, high_addr = (np.ascontiguousarray(ends[name]).view("S16")[:, 0] for name in _ADDRESSES)
    return (
        np.where(high, high_addr, low_addr),
        np.where(high, ends["high_port"], ends["low_port"]),
        np.where(high, low_addr, high_addr),
        np.where(high, ends["low_port"], ends["high_port"]),
    )


def layout(dtype: np.dtype[Any], prefix: str = "") -> dict[str, tuple[int, int]]:
    """Every leaf field of a structured dtype: dotted name to (offset, size) in bytes."""
    found: dict[str, tuple[int, int]] = {}
    for name in dtype.names or ():
        field = dtype.fields[name]  # type: ignore[index]
        inner, offset = field[0], field[1]
        base = inner.base
        if base.names is None:
            found[prefix + name] = (offset, inner.itemsize)
            continue
        count = inner.itemsize // base.itemsize
        for i in range(count):
            part = f"{prefix}{name}[{i}]." if inner.shape else f"{prefix}{name}."
            for key, (at, size) in layout(base, part).items():
                found[key] = (offset + i * base.itemsize + at, size)
    return found


def check_layout(compiled: dict[str, dict[str, list[int]]]) -> None:
    """Compares what was compiled with the dtypes above.

    Parameters
    ----------
    compiled
        For "flow", "counters" and "sweep", as far as they were compiled: dotted field name to [offset, size].

    Raises
    ------
    AbiError
        When a field is missing, surplus, or lies elsewhere.
    """
    mirrored = {"flow": FLOW, "counters": COUNTERS, "sweep": SWEEP}
    for what, theirs in compiled.items():
        ours = {name: list(place) for name, place in layout(mirrored[what]).items()}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise AbiError(
                    f"struct {what}: field {name} is at {theirs.get(name)} in the compiled program and at "
                    f"{ours.get(name)} in collector/records.py ([offset, size]); "
                    "bpf/flow.h and records.py must change together"
                )
