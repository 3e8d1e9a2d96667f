"""`flowml check`: what this machine can do, and what would distort the features."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from collector import confinement, netinfo, privileges
from collector.errors import FlowmlError
from collector.hooks import Attachment, attach_egress, attach_ingress
from collector.loader import Compiler, Loaded, compile_flags

__all__ = ["check"]

_TC_HOOKS = {"tcx": "TCX", "clsact": "clsact", "": "none"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    state: str
    """ok, note, or FAIL: attach would fail."""
    what: str
    found: str

    def __str__(self) -> str:
        return f"{self.state:<5} {self.what:<12} {self.found}"


def check(interface: str | None, write: Callable[[str], None]) -> bool:
    """Writes a line for each thing that matters; answers whether attach would work."""
    fine = True
    for finding in _findings(interface):
        write(str(finding))
        fine = fine and finding.state != "FAIL"
    return fine


def _findings(name: str | None) -> Iterator[Finding]:
    yield Finding("ok", "kernel", f"{platform.release()} {platform.machine()}")
    yield _btf()
    permissions = _permissions()
    yield permissions
    yield _confinement()
    with contextlib.ExitStack() as stack:
        loaded = None
        if permissions.state != "FAIL":
            loaded, finding = _bpf(stack)
            yield finding
        if name is not None:
            yield from _interface(name, loaded)


def _btf() -> Finding:
    there = Path("/sys/kernel/btf/vmlinux").exists()
    return Finding("ok" if there else "note", "BTF", "present" if there else "absent: not needed")


def _permissions() -> Finding:
    if os.geteuid() == 0:
        return Finding("ok", "permissions", f"root; would go on as {privileges.runner().name}")
    missing = privileges.missing_capabilities()
    if missing:
        return Finding("FAIL", "permissions", f"neither root nor {', '.join(missing)}: run it with sudo")
    return Finding("ok", "permissions", ", ".join(privileges.CAPABILITIES))


def _confinement() -> Finding:
    if confinement.is_possible():
        return Finding("ok", "confinement", "seccomp")
    return Finding("note", "confinement", "no seccomp for the model's process: install python3-seccomp")


def _bpf(stack: contextlib.ExitStack) -> tuple[Loaded | None, Finding]:
    flags = compile_flags(
        max_connections=16,
        ring_bytes=4096,
        tcp_establish_timeout=5000,
        tcp_inactivity_timeout=300_000,
        tls_only=False,
    )
    try:
        with Compiler() as compiler:
            loaded = compiler.load(flags, max_connections=16)
    except FlowmlError as error:
        return None, Finding("FAIL", "BPF", str(error))
    stack.callback(loaded.table.close)
    stack.callback(loaded.close_programs)
    return loaded, Finding("ok", "BPF", "the programs compile, load and run")


def _interface(name: str, loaded: Loaded | None) -> Iterator[Finding]:
    try:
        interface = netinfo.find(name)
    except FlowmlError as error:
        yield Finding("FAIL", "interface", str(error))
        return
    driver = interface.driver()
    yield Finding("ok", "interface", f"{name} is up{f', driver {driver}' if driver else ''}")
    distorting: list[str] = []
    if loaded is not None:
        hooks = Attachment(interface)
        try:
            yield from _hooks(hooks, loaded)
        finally:
            hooks.detach()
        distorting = hooks.distorting()
    try:
        yield from _distortions(interface, distorting)
    except OSError as error:
        gone = interface.gone() or f"{name} does not tell its MTU ({error.strerror})"
        yield Finding("FAIL", "interface", str(gone))


def _hooks(hooks: Attachment, loaded: Loaded) -> Iterator[Finding]:
    try:
        attach_ingress(hooks, loaded, "auto", "auto")
    except FlowmlError as error:
        yield Finding("FAIL", "ingress", str(error))
        return
    by = f"{hooks.xdp_mode} XDP" if hooks.xdp_mode else _TC_HOOKS[hooks.ingress_mode]
    yield Finding("note" if hooks.notes else "ok", "ingress", "; ".join([by, *hooks.notes]))
    hooks.notes.clear()
    try:
        attach_egress(hooks, loaded.tc_fd, "auto")
    except FlowmlError as error:
        yield Finding("FAIL", "egress", str(error))
        return
    by = _TC_HOOKS[hooks.egress_mode]
    yield Finding("note" if hooks.notes else "ok", "egress", "; ".join([by, *hooks.notes]))


def _distortions(interface: netinfo.Interface, distorting: list[str]) -> Iterator[Finding]:
    yield Finding("ok", "MTU", str(interface.mtu()))
    shown = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in sorted(interface.offloads().items()))
    if distorting:
        off = " ".join(f"{name} off" for name in distorting)
        yield Finding(
            "note",
            "offloads",
            f"{shown}: {' and '.join(distorting)} merges segments before they are counted: "
            f"`ethtool -K {interface.name} {off}`",
        )
    else:
        yield Finding("ok", "offloads", shown or "the driver does not tell")
