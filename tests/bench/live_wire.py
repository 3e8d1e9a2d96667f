"""The wire of the live benchmark. Sender and empty program are loaded once, and their namespaces entered."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from collector import kernel
from collector.hooks import _ATTACH_XDP
from tests.bench.generator import Generator
from tests.bench.rounds import on_core
from tests.bench.walking import load
from tests.lab import Host, Pair

__all__ = ["Sender", "Wire"]

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_libc = ctypes.CDLL(None, use_errno=True)


class Sender:
    """What is compiled for every wire: compiling it takes a second."""

    def __init__(self) -> None:
        self.generator = Generator()
        self._module = load("empty.bpf.c")
        self.empty = self._module.load_func("empty_ingress", self._module.XDP).fd


class Wire:
    """From left to right, sent on the first core."""

    def __init__(self, pair: Pair, sender: Sender) -> None:
        self.left, self.right = pair.left, pair.right
        self._sender = sender

    def send(self, segments: int, per_second: float = 0) -> float:
        """Sends so many; the rate that it came to, a second."""
        with _inside(self.left), on_core(0):
            return segments / self._sender.generator.send(self.left.iface, segments, per_second)

    def set_gro(self, on: bool) -> None:
        """With GRO off and no XDP program, the right end takes no frame."""
        self.right.run(["ethtool", "-K", self.right.iface, "gro", "on" if on else "off"])

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """In its body there is an XDP program on the right that only passes."""
        with _inside(self.right):
            index = socket.if_nametoindex(self.right.iface)
            link = kernel.create_link(self._sender.empty, index, _ATTACH_XDP)
        try:
            yield
        finally:
            os.close(link)


@contextlib.contextmanager
def _inside(host: Host) -> Iterator[None]:
    """In its body this thread is in the host's network namespace."""
    ours, theirs = Path("/proc/thread-self/ns/net"), Path("/run/netns", host.ns)
    with ours.open("rb") as before, theirs.open("rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "the namespace cannot be entered")
