"""From C source to a flow table in the kernel: compile, load, check, fill."""

from __future__ import annotations

import errno
import json
import os
import re
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
from collector.errors import KernelError, OutputError
from collector.folders import bpf_folder
from collector.records import Needs

__all__ = ["Compiler", "Loaded", "compile_flags"]

_ANSWER_MAX = 1 << 16
_DESCRIPTORS = len(compiler.PROGRAMS) + len(compiler.MAPS)

_MORE_FILES = "allow more open files (`ulimit -n`)"
_SMALLER_TABLE = "lower --max-connections, or ring_bytes in the settings file"
_SHORTAGES = {
    errno.ENOMEM: _SMALLER_TABLE,
    errno.E2BIG: _SMALLER_TABLE,
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: "allow more open files (`sysctl fs.file-max`)",
}
"""What to do where the C is right and the machine has no room."""
_MAP_REFUSED = re.compile(r"could not open bpf map: (?P<map>\S+), error: (?P<why>.+)")  # libbpf's words


def compile_flags(
    *,
    max_connections: int,
    ring_bytes: int,
    tcp_establish_timeout: int,
    tcp_inactivity_timeout: int,
    tls_only: bool,
    ip: str = "4",
    needs: Needs = Needs.ALL,
) -> list[str]:
    """The settings as the C core takes them (flow.h). Timeouts in milliseconds.

    What is not among `needs` is not kept up, costs nothing, and is 0 in the rows.
    """
    return [
        f"-DFLOWML_MAX_CONNECTIONS={max_connections}",
        f"-DFLOWML_RING_BYTES={ring_bytes}",
        f"-DFLOWML_ESTABLISH_TIMEOUT_NS={tcp_establish_timeout * 1_000_000}ULL",
        f"-DFLOWML_INACTIVITY_TIMEOUT_NS={tcp_inactivity_timeout * 1_000_000}ULL",
        f"-DFLOWML_TLS_ONLY={int(tls_only)}",
        f"-DFLOWML_IP={records.IP_VERSIONS[ip]}",
        f"-DFLOWML_NEEDS={int(needs)}",
    ]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The programs of one flow table, loaded and attached to nothing yet."""

    table: FlowTable
    xdp_fd: int
    tc_fd: int

    def close_programs(self) -> None:
        """Once they are attached the hooks hold them."""
        os.close(self.xdp_fd)
        os.close(self.tc_fd)


class Compiler:
    """The compiling process, for as long as tables are wanted from it.

    Loading needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON).
    """

    def __init__(self, source: Path | None = None) -> None:
        self._source = source or bpf_folder()
        try:
            log_fd, log_name = tempfile.mkstemp(prefix="flowml-compiler-", suffix=".log")
        except OSError as error:
            raise OutputError(
                f"no temporary file for what the compiler says ({error.strerror}): "
                "set TMPDIR to a folder that can be written"
            ) from error
        self._log = Path(log_name)
        self._log_is_named = False
        try:
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._process = self._start(theirs, log_fd)
        except OSError as error:
            self._log.unlink(missing_ok=True)
            hint = _MORE_FILES if error.errno == errno.EMFILE else "free memory, or end other processes"
            raise KernelError(
                f"the compiling process cannot be started ({error.strerror}): {hint}"
            ) from error
        finally:
            os.close(log_fd)

    def _start(self, channel: socket.socket, log_fd: int) -> subprocess.Popen[bytes]:
        # -I: nothing is imported from the current folder or from PYTHONPATH into a process of root's.
        return subprocess.Popen(
            [sys.executable, "-I", "-m", compiler.__name__, str(channel.fileno())],
            pass_fds=[channel.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            # Ctrl+C is for the collector, which ends this process by closing the channel.
            start_new_session=True,
        )

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.wait()
        if not self._log_is_named:
            self._log.unlink(missing_ok=True)

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
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            answer, fds = self._answer()
        except OSError as error:
            raise self._early_end(f", {error.strerror}") from error
        if "error" in answer:
            raise self._refusal(answer)
        if len(fds) < _DESCRIPTORS:  # the kernel hands over as many as this process may have open
            for fd in fds:
                os.close(fd)
            raise KernelError(f"the compiled programs cannot be taken over: {_MORE_FILES}")
        records.check_layout(answer["layout"])
        xdp, tc, sweep, flows, slots, finished, counters, sweeps = fds
        os.close(flows)
        try:
            table = FlowTable(
                sweep_fd=sweep,
                slots_fd=slots,
                ring_fd=finished,
                counters_fd=counters,
                sweeps_fd=sweeps,
                max_connections=max_connections,
            )
        except OSError as error:
            hint = _SHORTAGES.get(error.errno or 0, "see `flowml check`")
            raise KernelError(f"the flow table cannot be mapped ({error.strerror}): {hint}") from error
        table.fill()
        return Loaded(table, xdp, tc)

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        text = b""
        fds: list[int] = []
        while not text.endswith(b"\n"):
            part, more, _, _ = socket.recv_fds(self._channel, _ANSWER_MAX, 64)
            if not part:
                raise self._early_end("")
            text, fds = text + part, fds + more
        return json.loads(text), fds

    def _early_end(self, why: str) -> KernelError:
        """The compiling process is gone: killed, or out of memory."""
        self._log_is_named = True
        code = self._process.wait()
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return KernelError(
            f"the compiling process ended before its answer ({ended}{why}): what it said is in {self._log}"
        )

    def _refusal(self, answer: dict[str, Any]) -> KernelError:
        detail = answer["detail"]
        if answer["error"] == "bcc":
            python = shutil.which("python3", path="/usr/bin") or "/usr/bin/python3"
            return KernelError(
                f"bcc cannot be imported ({detail}): install the package python3-bpfcc, and make "
                f"the virtual environment with `{python} -m venv --system-site-packages`"
            )
        # Of a map that is refused BCC says the reason in the log alone; of programs E2BIG is the verifier's.
        refused = _MAP_REFUSED.search(self._log.read_text(errors="replace"))
        why = refused["why"] if refused else detail
        for code, hint in _SHORTAGES.items():
            if os.strerror(code) in why and (refused or code != errno.E2BIG):
                what = f"the map {refused['map']}" if refused else "the BPF programs"
                return KernelError(f"the kernel refuses {what} ({os.strerror(code)}): {hint}")
        self._log_is_named = True
        return KernelError(
            f"the BPF programs could not be compiled and loaded ({detail}): "
            f"what compiler and verifier said is in {self._log}"
        )
