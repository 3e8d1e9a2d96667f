"""From C source to a flow table in the kernel: compile, load, check, fill."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from collector import compiler, records
from collector.drain import FlowTable
from collector.errors import KernelError
from collector.folders import bpf_folder

__all__ = ["Compiler", "Loaded", "compile_flags"]

_ANSWER_MAX = 1 << 16


def compile_flags(
    *,
    max_connections: int,
    ring_bytes: int,
    tcp_establish_timeout: int,
    tcp_inactivity_timeout: int,
    tls_only: bool,
) -> list[str]:
    """The settings as the C core takes them (flow.h). Timeouts in milliseconds."""
    return [
        f"-DFLOWML_MAX_CONNECTIONS={max_connections}",
        f"-DFLOWML_RING_BYTES={ring_bytes}",
        f"-DFLOWML_ESTABLISH_TIMEOUT_NS={tcp_establish_timeout * 1_000_000}ULL",
        f"-DFLOWML_INACTIVITY_TIMEOUT_NS={tcp_inactivity_timeout * 1_000_000}ULL",
        f"-DFLOWML_TLS_ONLY={int(tls_only)}",
    ]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The programs of one flow table, loaded and attached to nothing yet."""

    table: FlowTable
    ingress_fd: int
    egress_fd: int

    def close_programs(self) -> None:
        """Once they are attached the hooks hold them."""
        os.close(self.ingress_fd)
        os.close(self.egress_fd)


class Compiler:
    """The compiling process, for as long as tables are wanted from it.

    Loading needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON).
    """

    def __init__(self, source: Path | None = None) -> None:
        self._source = source or bpf_folder()
        ours, theirs = socket.socketpair()
        self._channel = ours
        log_fd, log_name = tempfile.mkstemp(prefix="flowml-compiler-", suffix=".log")
        self._log = Path(log_name)
        # -I: nothing is imported from the current folder or from PYTHONPATH into a process of root's.
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", compiler.__name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                # Ctrl+C is for the collector, which ends this process by closing the channel.
                start_new_session=True,
            )
        os.close(log_fd)

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.wait()
        if not isinstance(error, KernelError):
            self._log.unlink()

    def load(self, flags: Sequence[str], *, max_connections: int) -> Loaded:
        """Compiles the core with these flags, loads it, and fills the stack of free slots.

        Raises
        ------
        KernelError
            When compiler or verifier refuse; the message names the file with what they said.
        AbiError
            When the compiled records are not those of records.py.
        """
        request = {"source": str(self._source), "flags": list(flags)}
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        answer, fds = self._answer()
        if "error" in answer:
            raise self._refusal(answer)
        records.check_layout(answer["layout"])
        ingress, egress, sweep, flows, slots, finished, counters, sweeps = fds
        os.close(flows)
        table = FlowTable(
            sweep_fd=sweep,
            slots_fd=slots,
            ring_fd=finished,
            counters_fd=counters,
            sweeps_fd=sweeps,
            max_connections=max_connections,
        )
        table.fill()
        return Loaded(table, ingress, egress)

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        text = b""
        fds: list[int] = []
        while not text.endswith(b"\n"):
            part, more, _, _ = socket.recv_fds(self._channel, _ANSWER_MAX, 64)
            if not part:
                return {"error": "compile", "detail": "the compiling process ended"}, []
            text, fds = text + part, fds + more
        return json.loads(text), fds

    def _refusal(self, answer: dict[str, Any]) -> KernelError:
        if answer["error"] == "bcc":
            python = shutil.which("python3", path="/usr/bin") or "/usr/bin/python3"
            return KernelError(
                f"bcc cannot be imported ({answer['detail']}): install the package python3-bpfcc, and make "
                f"the virtual environment with `{python} -m venv --system-site-packages`"
            )
        return KernelError(
            f"the BPF programs could not be compiled and loaded ({answer['detail']}): "
            f"what compiler and verifier said is in {self._log}"
        )
