"""Attaching to interfaces, and being gone when the process is gone.

Hooks are BPF links: the kernel detaches them when their descriptor closes, however the process ends.
Where the kernel knows no TCX (before 6.6), the TC program goes to a clsact qdisc, which outlives
processes; there a watcher (`collector.watcher`) takes it away.

What comes in is counted by native XDP or else by TC. Generic XDP, which every interface has, sees what GRO
has merged without being told so; TC sees the same buffers, and is told how many segments each was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from collector import kernel, watcher
from collector.errors import InterfaceError, KernelError, PrivilegeError
from collector.loader import Loaded
from collector.netinfo import Interface

__all__ = ["Attachment", "attach", "attach_egress", "attach_ingress", "holder"]

# <linux/bpf.h>, <linux/if_link.h>
_ATTACH_XDP = 37
_ATTACH_TCX = {"ingress": 46, "egress": 47}
_XDP_MODES = {"native": 1 << 2, "generic": 1 << 1}


@dataclass
class Attachment:
    """The hooks of one interface."""

    interface: Interface
    xdp_mode: str = ""
    """native, generic, or empty: what comes in is counted by TC."""
    ingress_mode: str = ""
    """tcx, clsact, or empty: what comes in is counted by XDP."""
    egress_mode: str = ""
    """tcx, clsact, or empty: ingress only."""
    notes: list[str] = field(default_factory=list)
    """Why it is this mode and not the one before it in line."""
    _links: list[int] = field(default_factory=list)
    _listening: socket.socket | None = None
    _watchers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def ingress(self) -> str:
        """What counts what comes in, in words."""
        return f"{self.xdp_mode} XDP" if self.xdp_mode else f"ingress by {self.ingress_mode}"

    def distorting(self) -> list[str]:
        """The offloads that are on and merge segments before they are counted, in a way that is not told.

        GRO tells TC what it has merged, and does not touch what native XDP sees; LRO does both wrong.
        """
        on = self.interface.offloads()
        return [
            name for name in ("gro", "lro") if on.get(name) and (name == "lro" or self.xdp_mode == "generic")
        ]

    def is_alive(self) -> bool:
        """False once the kernel has taken the hooks away: the interface is gone from here."""
        try:
            return all(kernel.link_info(link).ifindex != 0 for link in self._links)
        except OSError:
            return self.interface.is_present()

    def detach(self) -> None:
        """Takes the hooks away. Packets in flight are still counted. Safe to repeat."""
        while self._links:
            os.close(self._links.pop())
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        while self._watchers:
            process = self._watchers.pop()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


def attach(interface: Interface, loaded: Loaded, *, direction: str, xdp: str, egress: str) -> Attachment:
    """Attaches the programs of one table to one interface.

    Parameters
    ----------
    direction
        "both", or "ingress" for a mirror port, which is put into promiscuous mode while it lasts.
    xdp
        "native", "generic", "tc", or "auto": native XDP, and TC where that is refused.
    egress
        Of TC hooks: "tcx", "clsact", or "auto": TCX, and clsact where the kernel knows no TCX.

    Raises
    ------
    InterfaceError
        The interface has an XDP program already (the message says whose), refuses ours, or went away.
    KernelError
        A TC program is refused.
    """
    hooks = Attachment(interface)
    try:
        attach_ingress(hooks, loaded, xdp, egress)
        if direction == "ingress":
            _listen(hooks)
        else:
            attach_egress(hooks, loaded.tc_fd, egress)
    except BaseException:
        hooks.detach()
        raise
    return hooks


def attach_ingress(hooks: Attachment, loaded: Loaded, xdp: str, egress: str) -> None:
    """The hook for what comes in alone; parameters and errors as for `attach`."""
    if xdp != "tc":
        refusal = _attach_xdp(hooks, loaded.xdp_fd, "native" if xdp == "auto" else xdp)
        if not refusal:
            return
        if xdp != "auto":
            raise InterfaceError(f"{refusal}: try --xdp {'auto' if xdp == 'native' else 'tc'}")
        hooks.notes.append(f"{refusal}: what comes in is counted by TC, merged segments as on the wire")
    hooks.ingress_mode = _attach_tc(hooks, loaded.tc_fd, "ingress", egress)


def _attach_xdp(hooks: Attachment, prog_fd: int, mode: str) -> str:
    """Why the interface refuses XDP of this mode; empty if it does not."""
    name, index = hooks.interface.name, hooks.interface.index
    try:
        hooks._links.append(kernel.create_link(prog_fd, index, _ATTACH_XDP, _XDP_MODES[mode]))
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise InterfaceError(
                f"{name} has an XDP program already{holder(hooks.interface)}: end that first, "
                "or pass --xdp tc"
            ) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise PrivilegeError(f"no right to attach to {name} ({error.strerror}): run with sudo") from error
        if gone := hooks.interface.gone():
            raise gone from error
        return f"{name} refuses {mode} XDP ({error.strerror})"
    hooks.xdp_mode = mode
    return ""


def _listen(hooks: Attachment) -> None:
    """A mirror port gets frames that are for others: without this the card throws them away."""
    try:
        hooks._listening = hooks.interface.listen_to_all()
    except OSError as error:
        if gone := hooks.interface.gone():
            raise gone from error
        hooks.notes.append(f"not in promiscuous mode ({error.strerror}): frames for others may be missing")


def attach_egress(hooks: Attachment, prog_fd: int, wanted: str) -> None:
    """The hook for what goes out alone, but not on the loopback; `wanted` and errors as for `attach`."""
    name = hooks.interface.name
    try:
        loopback = hooks.interface.is_loopback()
    except OSError as error:
        raise hooks.interface.gone() or InterfaceError(
            f"{name} does not say what it is ({error.strerror}): try --direction ingress"
        ) from error
    if loopback:
        hooks.notes.append("what goes out comes in again here, and is counted once: no egress hook")
        return
    hooks.egress_mode = _attach_tc(hooks, prog_fd, "egress", wanted)


def _attach_tc(hooks: Attachment, prog_fd: int, direction: str, wanted: str) -> str:
    """Attaches the TC program for one direction, and answers by what."""
    name, index = hooks.interface.name, hooks.interface.index
    if wanted in ("auto", "tcx"):
        try:
            hooks._links.append(kernel.create_link(prog_fd, index, _ATTACH_TCX[direction]))
        except OSError as error:
            if gone := hooks.interface.gone():
                raise gone from error
            if wanted == "tcx" or error.errno != errno.EINVAL:
                others = ["--egress clsact", *(["--direction ingress"] if direction == "egress" else [])]
                raise KernelError(
                    f"{name} refuses TCX {direction} ({error.strerror}): try {', or '.join(others)}"
                ) from error
            note = "this kernel knows no TCX (it came with 6.6)"
            hooks.notes += [note] if note not in hooks.notes else []
        else:
            return "tcx"
    try:
        hooks._watchers.append(_attach_clsact(name, index, prog_fd, direction))
    except KernelError as error:
        if gone := hooks.interface.gone():
            raise gone from error
        raise
    return "clsact"


def _attach_clsact(name: str, index: int, prog_fd: int, direction: str) -> subprocess.Popen[bytes]:
    """Has a watcher attach the program, and take it away again when this process lets go of it."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", watcher.__name__, str(index), str(prog_fd), direction],
        pass_fds=[prog_fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl+C in the terminal is not for it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answer = process.stdout.readline().decode().strip()
    if answer != watcher.READY:
        process.stdin.close()
        process.wait()
        hint = "--direction ingress" if direction == "egress" else "--xdp generic"
        raise KernelError(f"{name} refuses a clsact {direction} program ({answer}): try {hint}")
    return process


def holder(interface: Interface) -> str:
    """Who holds the XDP hook of an interface, for an error message; empty if that cannot be told."""
    try:
        program = _xdp_program(interface.index)
        # By program, not by interface: an index is that of another interface in another namespace.
        held = [link for link in kernel.links() if link.prog_id == program]
    except OSError:
        return ""
    for link in held:
        for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
            try:
                fields = info.read_text().split()
            except OSError:  # it ended meanwhile
                continue
            if "link_id:" in fields and fields[fields.index("link_id:") + 1] == str(link.id):
                pid = info.parts[2]
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                return f", held by process {pid} ({words.decode(errors='replace').strip()[:80]})"
    return f" (program {program})" if program else ""


def _xdp_program(index: int) -> int:
    """Id of the XDP program on an interface of this namespace; 0 if there is none."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            (link,) = netlink.get_links(index)
    except NetlinkError:  # the interface went away meanwhile
        return 0
    xdp = link.get_attr("IFLA_XDP")
    return int(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp is not None else 0
