"""The `flowml` command, run as its users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Host, end, wait_for

FLOWML = Path(sys.executable).with_name("flowml")


@dataclass
class Running:
    """A `flowml` that is attached."""

    process: subprocess.Popen[bytes]
    outfile: Path
    err: Path

    def stderr(self) -> str:
        return self.err.read_text()

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Ends it; answers its exit code."""
        return end(self.process, how, timeout=60)

    def lines(self) -> list[Any]:
        """What it wrote, parsed; a line that it has not written to its end is left for later."""
        whole_lines, _, _ = self.outfile.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole_lines.splitlines()]

    def counters(self, iface: str = "eth0") -> dict[str, int]:
        """The summary's counters of one interface."""
        (line,) = [
            line
            for line in self.stderr().splitlines()
            if line.startswith(f"{iface}: ") and " XDP" not in line and "tracked" in line
        ]
        pairs = (part.split() for part in line.partition(": ")[2].split(", "))
        return {name: int(value) for name, value in pairs}


@contextmanager
def flowml(
    host: Host,
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    own_outfile: bool = False,
    terminal: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> Iterator[Running]:
    """`flowml` with these arguments in a host's namespace; attached in the body, ended after it.

    An `--outfile` is added, in a temporary folder, unless the arguments have their own. It has no controlling
    terminal, as a service has none, unless one is given.
    """
    with tempfile.TemporaryDirectory(prefix="flowml-test-") as folder:
        outfile, err = Path(folder) / "out.jsonl", Path(folder) / "err"
        output = () if own_outfile else ("--outfile", str(outfile))
        session = ("setsid",) if terminal == subprocess.DEVNULL else ("setsid", "--ctty")
        with err.open("wb") as stderr:
            process = subprocess.Popen(
                [*session, "ip", "netns", "exec", host.ns, FLOWML, *map(str, arguments), *output],
                stdin=terminal,
                stdout=stdout,
                stderr=stderr,
                env=os.environ | (environment or {}),
            )
        running = Running(process, outfile, err)
        try:
            wait_for(
                lambda: "running as" in running.stderr() or process.poll() is not None, "attached", timeout=60
            )
            assert process.poll() is None, running.stderr()
            yield running
        finally:
            end(process, signal.SIGKILL)


def run_to_its_end(
    *arguments: str | Path,
    ns: str | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, str]:
    """Runs `flowml` until it ends by itself: exit code, and what it said on standard error."""
    where: Sequence[str] = ["ip", "netns", "exec", ns] if ns else []
    done = subprocess.run(
        [*where, FLOWML, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (environment or {}),
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stderr
