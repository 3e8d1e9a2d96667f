"""What the process cannot do any more once the rights are gone, whatever a model tells it to.

A pickle is a program. It runs as a user without rights, and behind this filter it can neither start
another program nor open a connection, look into other processes, or make BPF programs. What is left is what
flowml does itself: reading and writing the user's files. The filter is libseccomp's, through the bindings
that distributions package (python3-seccomp).
"""

from __future__ import annotations

import errno
from importlib.util import find_spec

__all__ = ["confine", "is_possible"]

_REFUSED = (
    # other programs
    "execve",
    "execveat",
    # connections: those that are there can be used, and answered
    "connect",
    "bind",
    "listen",
    "sendmsg",
    "sendmmsg",
    # other processes
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    # other views of the system, and other rights
    "mount",
    "umount2",
    "move_mount",
    "open_tree",
    "fsopen",
    "mount_setattr",
    "pivot_root",
    "chroot",
    "setns",
    "unshare",
    "open_by_handle_at",
    "add_key",
    "request_key",
    "keyctl",
    # what is often how a kernel is broken
    "perf_event_open",
    "io_uring_setup",
    "userfaultfd",
    "init_module",
    "finit_module",
    "kexec_load",
    "kexec_file_load",
)
"""System calls that are answered with EPERM."""

_BPF_ALLOWED = (1, 10, 15)  # look up, run a program, ask about a link (kernel.py)
_BPF_COMMANDS = 64
"""More than there are; from there on all are refused."""
_ANOTHER_ADDRESS = 4  # the argument of sendto(2) that is null on a connection


def is_possible() -> bool:
    """Whether the bindings are installed here."""
    return find_spec("seccomp") is not None


def confine() -> bool:
    """Has the kernel refuse those calls to all threads, from now on and for good.

    It needs `no_new_privs`, and no right.

    Returns
    -------
    False: the bindings are not installed here, or the kernel has no seccomp.
    """
    if not is_possible():
        return False
    import seccomp

    refuse = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for call in _REFUSED:
        try:
            rules.add_rule(refuse, call)
        except RuntimeError:  # a call that this libseccomp does not know yet
            continue
    rules.add_rule(refuse, "sendto", seccomp.Arg(_ANOTHER_ADDRESS, seccomp.NE, 0))
    for command in range(_BPF_COMMANDS):
        if command not in _BPF_ALLOWED:
            rules.add_rule(refuse, "bpf", seccomp.Arg(0, seccomp.EQ, command))
    rules.add_rule(refuse, "bpf", seccomp.Arg(0, seccomp.GE, _BPF_COMMANDS))
    try:
        rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)
        rules.load()
    except (OSError, RuntimeError):
        return False
    return True
