"""The few calls of bpf(2) that flowml makes itself, over file descriptors.

No library is needed for them, and none of them needs root once the descriptors are open (on kernels from
5.19 on; `privileges.py` tells). Structures: `union bpf_attr` of <linux/bpf.h>.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from collector.errors import KernelError

__all__ = [
    "XDP_PASS",
    "Link",
    "create_link",
    "link_info",
    "links",
    "load_xdp",
    "lookup",
    "run_program",
]

_SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}

_MAP_LOOKUP_ELEM = 1
_PROG_LOAD = 5
_PROG_TEST_RUN = 10
_OBJ_GET_INFO_BY_FD = 15
_LINK_CREATE = 28
_LINK_GET_FD_BY_ID = 30
_LINK_GET_NEXT_ID = 31

XDP_PASS = 2
LINK_TYPE_XDP = 6
LINK_TYPE_TCX = 11

_PROG_TYPE_XDP = 6
_XDP_HAS_FRAGS = 1 << 5  # BPF_F_XDP_HAS_FRAGS, since Linux 5.18
_INSTRUCTION = 8

_ATTR_SIZE = 128
_ETHERNET_MIN = 64

SKB_FIELDS = {"tstamp": ("=Q", 152), "gso_segs": ("=I", 164), "gso_size": ("=I", 176)}
"""Format and offset in `struct __sk_buff` of <linux/bpf.h>."""
_SKB_SIZE = 192

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """One bpf(2) call. Raises OSError with the kernel's errno."""
    try:
        number = _SYSCALLS[platform.machine()]
    except KeyError:
        raise KernelError(f"the number of bpf(2) on {platform.machine()} is not known to flowml") from None
    result: int = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), attr, ctypes.c_uint(len(attr)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _attr(layout: str, *fields: int | bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=" + layout, *fields), _ATTR_SIZE)


def load_xdp(name: str, instructions: bytes, license: str = "GPL") -> int:
    """Loads an XDP program that takes packets of several buffers; a descriptor.

    Raises
    ------
    OSError
        The kernel refuses it: EINVAL before Linux 5.18, which knows no such programs.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    terms = ctypes.create_string_buffer(license.encode())
    return _bpf(
        _PROG_LOAD,
        _attr(
            "IIQQIIQII16s",
            _PROG_TYPE_XDP,
            len(instructions) // _INSTRUCTION,
            ctypes.addressof(code),
            ctypes.addressof(terms),
            0,  # no log: where it is refused, BCC loads it, and tells
            0,
            0,
            0,
            _XDP_HAS_FRAGS,
            name.encode(),
        ),
    )


def create_link(prog_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attaches a program to an interface as a BPF link; closing the descriptor detaches it."""
    return _bpf(_LINK_CREATE, _attr("IIII", prog_fd, ifindex, attach_type, flags))


@dataclass(frozen=True, slots=True)
class Link:
    """What the kernel says of a BPF link."""

    id: int
    type: int
    prog_id: int
    ifindex: int
    """0 when the interface is gone."""


def link_info(link_fd: int) -> Link:
    """Asks the kernel about a link."""
    info = ctypes.create_string_buffer(256)
    _bpf(_OBJ_GET_INFO_BY_FD, _attr("IIQ", link_fd, len(info), ctypes.addressof(info)))
    kind, link_id, prog_id = struct.unpack_from("=III", info.raw)
    (ifindex,) = struct.unpack_from("=I", info.raw, 16)
    return Link(link_id, kind, prog_id, ifindex)


def links() -> list[Link]:
    """Every XDP and TCX link of this machine. Needs root."""
    found: list[Link] = []
    last = 0
    while True:
        attr = _attr("II", last, 0)
        try:
            _bpf(_LINK_GET_NEXT_ID, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:  # that was the last one
                return found
            raise
        (last,) = struct.unpack_from("=I", attr.raw, 4)
        with contextlib.suppress(FileNotFoundError):  # it went away between the two calls
            fd = _bpf(_LINK_GET_FD_BY_ID, _attr("I", last))
            link = link_info(fd)
            os.close(fd)
            if link.type in (LINK_TYPE_XDP, LINK_TYPE_TCX):
                found.append(link)


def lookup(map_fd: int, key: bytes, size: int) -> bytes:
    """The value of a key, `size` bytes; for a per-CPU map the values of all possible CPUs."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(size)
    _bpf(
        _MAP_LOOKUP_ELEM,
        _attr("IxxxxQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value), 0),
    )
    return value.raw


def run_program(
    prog_fd: int,
    *,
    repeat: int = 1,
    frame: bytes = b"",
    time_ns: int | None = None,
    skb: Mapping[str, int] | None = None,
) -> int:
    """Runs an XDP or TC program on one frame, `repeat` times (BPF_PROG_TEST_RUN).

    Parameters
    ----------
    frame
        The bytes of the frame. The kernel wants 14 at least; empty means that it does not matter.
    time_ns
        What an XDP program takes for the time, if it was compiled to find it in the packet's metadata.
    skb
        For a TC program: fields of `struct __sk_buff`, of those named in `SKB_FIELDS`.

    Returns
    -------
    What the program answered in its last run.

    Raises
    ------
    OSError
        Above all EINTR: a signal came, and fewer than `repeat` runs were made.
    """
    frame = frame or bytes(_ETHERNET_MIN)
    context, context_size = 0, 0
    if time_ns is not None:
        frame = struct.pack("=Q", time_ns) + frame
        # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        md = ctypes.create_string_buffer(struct.pack("=6I", 8, len(frame), 0, 0, 0, 0), 24)
        context, context_size = ctypes.addressof(md), len(md)
    elif skb:
        fields = ctypes.create_string_buffer(_SKB_SIZE)
        for name, value in skb.items():
            layout, offset = SKB_FIELDS[name]
            struct.pack_into(layout, fields, offset, value)
        context, context_size = ctypes.addressof(fields), len(fields)
    data = ctypes.create_string_buffer(frame, len(frame))
    attr = _attr(
        "IIIIQQIIIIQQIII",
        prog_fd,
        0,
        len(frame),
        0,
        ctypes.addressof(data),
        0,
        repeat,
        0,
        context_size,
        0,
        context,
        0,
        0,
        0,
        0,
    )
    _bpf(_PROG_TEST_RUN, attr)
    return int(struct.unpack_from("=I", attr.raw, 4)[0])
