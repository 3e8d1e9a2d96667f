"""Runs a command as a systemd unit would, as far as that can be done without systemd.

    python -m tests.service UNIT FOLDER COMMAND...    (as root)

Applied are the capabilities, `NoNewPrivileges`, `MemoryDenyWriteExecute`, `SystemCallFilter` and
`RestrictAddressFamilies`, with systemd's own sets of calls; the file system is read-only but for the folder,
which stands in for the state directory and the temporary one; the user is `games`, not a dynamic one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

USER = "games"
_PR_SET_MDWE = 65
_CHECKED = "--checked"


def directives(unit: Path) -> dict[str, list[str]]:
    """The unit's settings: every value of each, in their order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def calls(name: str) -> Iterator[str]:
    """The system calls of a name, which may be that of one of systemd's sets."""
    if not name.startswith("@"):
        yield name
        return
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    for line in shown.splitlines()[1:]:
        if (entry := line.strip()) and not entry.startswith("#"):
            yield from calls(entry)


def restrict(unit: dict[str, list[str]]) -> None:
    """Memory and system calls, from here on."""
    import seccomp

    if "yes" in unit.get("MemoryDenyWriteExecute", ()):
        assert ctypes.CDLL(None).prctl(_PR_SET_MDWE, ctypes.c_ulong(1), 0, 0, 0) == 0
    allowed = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for value in unit["SystemCallFilter"]:
        assert not value.startswith("~")
        for call in {call for word in value.split() for call in calls(word)} - {"socket"}:
            try:
                allowed.add_rule(seccomp.ALLOW, call)
            except RuntimeError:  # of another architecture
                continue
    for family in unit["RestrictAddressFamilies"][0].split():
        allowed.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.EQ, getattr(socket, family)))
    allowed.load()


def main() -> None:
    if sys.argv[1] == _CHECKED:
        restrict(directives(Path(sys.argv[2])))
        os.execv(sys.argv[3], sys.argv[3:])
    unit = directives(Path(sys.argv[1]))
    capabilities = ",".join(
        ["-all", *(f"+{name[4:].lower()}" for name in unit["AmbientCapabilities"][0].split())]
    )
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"]
    folder = sys.argv[2]
    mounts = [
        "mount --make-rprivate /",
        "mount -t tmpfs tmpfs /home",
        "mount -t tmpfs tmpfs /root",
        f"mount --bind {folder} {folder}",
        "mount -o remount,bind,ro /",
    ]
    who = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"]
    sets = [f"--{name}={capabilities}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    itself = [sys.executable, "-m", "tests.service", _CHECKED, sys.argv[1]]
    inner = [*who, *sets, *itself, *sys.argv[3:]]
    script = " && ".join([*mounts, f"cd {folder}", 'exec "$0" "$@"'])
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    os.environ["TMPDIR"] = folder
    os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, *inner])


if __name__ == "__main__":
    main()
