"""Root is needed to attach, not to run: whose rights open files, and giving root up for good.

Three identities. The *starter* is root. The *caller* is who typed the command: the user behind sudo, or
root. Files are opened with the caller's rights, so that sudo lends nobody a file that is not theirs. The
*runner* is who the process goes on as: --user, else the user behind sudo, else nobody. Who is behind sudo may
name only themselves or nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from collector.errors import PrivilegeError

__all__ = [
    "CAPABILITIES",
    "User",
    "as_caller",
    "caller",
    "drop",
    "effective_capabilities",
    "missing_capabilities",
    "no_new_privileges",
    "runner",
]

# <linux/capability.h>, <linux/prctl.h>
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""What attaching needs where it is not done as root."""
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_SECUREBITS = 28
_CAP_SETPCAP = 8
# <linux/securebits.h>: root's id means nothing, and nothing of this can be changed again.
_SECBIT_NOROOT, _SECBIT_KEEP_CAPS, _SECBIT_NO_CAP_AMBIENT_RAISE = 1 << 0, 1 << 4, 1 << 6
_SECBIT_LOCKS = (_SECBIT_NOROOT | _SECBIT_KEEP_CAPS | _SECBIT_NO_CAP_AMBIENT_RAISE) << 1

_NOBODY = "nobody"

_libc = ctypes.CDLL(None, use_errno=True)


class User(NamedTuple):
    """A user, with all groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def _user(entry: pwd.struct_passwd) -> User:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups))


def _myself() -> User:
    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return User(name, uid, gid, tuple(os.getgroups()))


def caller() -> User:
    """Who typed the command: the user behind sudo, else who this process is."""
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "0") != "0":
        try:
            return _user(pwd.getpwuid(int(os.environ["SUDO_UID"])))
        except (KeyError, ValueError) as error:
            raise PrivilegeError(
                f"SUDO_UID is {os.environ['SUDO_UID']}, which is no user here: run it from a root shell"
            ) from error
    return _myself()


def runner(name: str = "") -> User:
    """Who to go on as: the named user, else the user behind sudo, else nobody; never root.

    Raises
    ------
    PrivilegeError
        There is no such user, or it is root, or this process cannot become it. Nor may the user behind sudo
        name somebody else: what sudo was allowed for does not include that account's files.
    """
    if os.geteuid() != 0:
        if name:
            raise PrivilegeError(f"only root can go on as another user: leave out --user {name}")
        return _myself()
    behind = caller()
    if not name and behind.uid != 0:
        return behind
    try:
        user = _user(pwd.getpwnam(name or _NOBODY))
    except KeyError as error:
        raise PrivilegeError(f"no user {name or _NOBODY} here: name another with --user") from error
    if user.uid == 0:
        raise PrivilegeError(
            f"a model is never parsed as root, and {user.name} is root: name another with --user"
        )
    if behind.uid != 0 and user != behind and user.name != _NOBODY:
        raise PrivilegeError(
            f"{behind.name}, who is behind sudo, cannot go on as {user.name}: "
            f"name {behind.name} or {_NOBODY} with --user, or run it from a root shell"
        )
    return user


def effective_capabilities() -> int:
    """The effective capability set of this process, as a bit mask."""
    return _effective(Path("/proc/self/status"))


def _effective(status: Path) -> int:
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def missing_capabilities() -> list[str]:
    """Names of those in `CAPABILITIES` that this process does not have."""
    effective = effective_capabilities()
    return [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]


@contextlib.contextmanager
def as_caller() -> Iterator[None]:
    """Opens files, in its body, with the rights of who typed the command, and in their name."""
    user = caller()
    if user.uid == os.geteuid():
        yield
        return
    groups = os.getgroups()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def drop(user: User, probe_fd: int | None = None) -> list[str]:
    """Becomes `user` for good: no root id, no capability, no way back.

    Parameters
    ----------
    probe_fd
        A BPF map that goes on being read. Kernels before 5.19 refuse that to unprivileged processes where
        `kernel.unprivileged_bpf_disabled` is set; there, and only there, CAP_BPF is kept.

    Returns
    -------
    The names of the capabilities that were kept: nearly always none.
    """
    kept = ["CAP_BPF"] if probe_fd is not None and not _readable_unprivileged(user, probe_fd) else []
    _become(user, kept)
    if 0 in os.getresuid() or 0 in os.getresgid() or 0 in os.getgroups():
        raise PrivilegeError(f"root could not be given up for {user.name}: nothing was parsed")
    mask = sum(1 << CAPABILITIES[name] for name in kept)
    for task in Path("/proc/self/task").iterdir():
        # Capabilities are each thread's own. Behind sudo the C library sees to all, with the ids.
        if _effective(task / "status") & ~mask:
            raise PrivilegeError(
                f"a thread that a library made keeps capabilities: run it as root instead of with "
                f"{' '.join(CAPABILITIES)}, or set OPENBLAS_NUM_THREADS=1; nothing was parsed"
            )
    return kept


def no_new_privileges() -> None:
    """From here on no program that is run can gain rights.

    It holds for this thread and those that it makes, so it comes before any library makes some.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _become(user: User, kept: list[str]) -> None:
    try:
        no_new_privileges()
        if effective_capabilities() >> _CAP_SETPCAP & 1:
            _close_the_way_back(keep=bool(kept))
        if os.geteuid() == 0:
            os.setgroups([group for group in user.groups if group != 0])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _set_capabilities(sum(1 << CAPABILITIES[name] for name in kept))
    except OSError as error:
        raise PrivilegeError(f"cannot go on as {user.name} ({error.strerror})") from error


def _close_the_way_back(*, keep: bool) -> None:
    """No capability can come back, by any id or program: what `no_new_privs` says too, by another lock."""
    capability = 0
    while _libc.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(capability), 0, 0, 0) >= 0:  # to the kernel's last
        _prctl(_PR_CAPBSET_DROP, capability)
        capability += 1
    bits = _SECBIT_NOROOT | _SECBIT_NO_CAP_AMBIENT_RAISE | _SECBIT_LOCKS
    _prctl(_PR_SET_SECUREBITS, bits | (_SECBIT_KEEP_CAPS if keep else 0))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _set_capabilities(mask: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0), 24)
    if _libc.capset(header, data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _readable_unprivileged(user: User, probe_fd: int) -> bool:
    """Tries it, in a child that gives everything up."""
    from collector import kernel

    child = os.fork()
    if child == 0:
        status = 1
        try:
            _become(user, [])
            kernel.lookup(probe_fd, bytes(4), 1 << 16)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
