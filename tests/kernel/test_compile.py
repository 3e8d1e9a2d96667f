"""The C core compiles without a warning, and what goes wrong while compiling is said."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from collector.drain import FlowTable
from collector.errors import KernelError, OutputError
from collector.folders import bpf_folder
from collector.inkernel import CLOCK_IN_METADATA
from collector.loader import Compiler, compile_flags
from collector.records import FLOW, IP_VERSIONS
from tests.replay import changed_core

pytestmark = pytest.mark.kernel

STRICT = ("-Wall", "-Wextra", "-Werror")
NOT_OURS = (
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",
    "-Wno-missing-field-initializers",
    "-Wno-pointer-sign",
    "-Wno-deprecated-declarations",
    "-Wno-macro-redefined",
)
"""BCC's own headers, which come with every compilation, are not clean of these."""

SETTINGS = compile_flags(
    max_connections=16,
    ring_bytes=4096,
    tcp_establish_timeout=5000,
    tcp_inactivity_timeout=300_000,
    tls_only=True,
)


@pytest.mark.parametrize("ip", ["4", "6", "both"])
@pytest.mark.parametrize("clock", [(), (CLOCK_IN_METADATA,)], ids=["kernel clock", "clock in packets"])
def test_it_compiles_without_a_warning(clock: tuple[str, ...], ip: str) -> None:
    """Warnings as errors; and the verifier takes it."""
    flags = [*SETTINGS, f"-UFLOWML_IP -DFLOWML_IP={IP_VERSIONS[ip]}", *STRICT, *NOT_OURS, *clock]
    with Compiler() as compiler:
        loaded = compiler.load(" ".join(flags).split(), max_connections=16)
    assert isinstance(loaded.table, FlowTable)
    loaded.close_programs()
    loaded.table.close()


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("count_fate(fate);", "count_fate(fate)", "error: expected ';'"),
        ("\tif (!flow)\n\t\treturn SWEEP_FAILED;\n", "", "invalid mem access"),
    ],
    ids=["compiler", "verifier"],
)
def test_what_compiler_and_verifier_say_is_kept(tmp_path: Path, before: str, after: str, kept: str) -> None:
    """One line for the user, which names the file with the rest."""
    source = changed_core(tmp_path, before, after)

    with pytest.raises(KernelError) as error, Compiler(source) as compiler:
        compiler.load(SETTINGS, max_connections=16)

    found = re.search(r"said is in (\S+)$", str(error.value))
    assert found is not None
    log = Path(found[1])
    text = log.read_text()
    log.unlink()
    assert re.search(kept, text)
    assert len(str(error.value).splitlines()) == 1


def test_a_layout_that_differs_is_refused(tmp_path: Path) -> None:
    """A field more in flow.h than in records.py."""
    source = tmp_path / "bpf"
    shutil.copytree(bpf_folder(), source)
    header = (source / "flow.h").read_text()
    (source / "flow.h").write_text(header.replace("__u8 reserved;", "__u8 more;"))

    wrong = r"struct flow: field more is at \[191, 1\] in the compiled"
    with pytest.raises(KernelError, match=wrong) as error, Compiler(source) as compiler:
        compiler.load(SETTINGS, max_connections=16)
    assert error.value.exit_code == 7


@pytest.mark.parametrize("asked", [False, True], ids=["before the request", "with the request unread"])
def test_a_compiling_process_that_dies_is_said(asked: bool) -> None:
    """As the out-of-memory killer would end it: one line, which names the file with what it said."""
    with Compiler() as compiler:
        process = compiler._process
        if asked:
            process.send_signal(signal.SIGSTOP)
            threading.Timer(0.2, process.kill).start()
        else:
            process.kill()
            process.wait()

        with pytest.raises(KernelError) as error:
            compiler.load(SETTINGS, max_connections=16)

    found = re.fullmatch(
        r"the compiling process ended before its answer \(killed by signal 9(, .*)?\): "
        r"what it said is in (\S+)",
        str(error.value),
    )
    assert found is not None
    Path(found[2]).unlink()


def test_a_table_that_is_too_large_for_the_memory_is_no_error_of_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what to lower; no file is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    connections = 2 * memory // FLOW.itemsize
    large = compile_flags(
        max_connections=connections,
        ring_bytes=4096,
        tcp_establish_timeout=5000,
        tcp_inactivity_timeout=300_000,
        tls_only=True,
    )
    refusal = r"^the kernel refuses the map \w+ \(.*\): lower --max-connections, or ring_bytes"
    with pytest.raises(KernelError, match=refusal), Compiler() as compiler:
        compiler.load(large, max_connections=connections)
    assert not list(tmp_path.iterdir())


FEW_FILES = """
import os, resource, sys
from collector.errors import FlowmlError
from collector.loader import Compiler, compile_flags
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(sys.argv[2]))]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
flags = compile_flags(max_connections=16, ring_bytes=4096, tcp_establish_timeout=5000,
                      tcp_inactivity_timeout=300_000, tls_only=True)
try:
    with Compiler() as compiler:
        compiler.load(flags, max_connections=16)
except FlowmlError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "held"),
    [(7, 0), (10, 0), (12, 0), (21, 10), (24, 10)],
    ids=["process", "maps", "programs", "descriptors", "table"],
)
def test_too_few_open_files_are_no_error_of_the_compiler(limit: int, held: int, tmp_path: Path) -> None:
    """Wherever they run out, here or in the compiling process: what to raise; no file is left."""
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(limit), str(held)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    (line,) = done.stdout.splitlines()
    assert line.endswith("allow more open files (`ulimit -n`)")
    assert not list(tmp_path.iterdir())


def test_without_a_temporary_folder_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, which names what to set."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"\(No such file or directory\): set TMPDIR to a folder"):
        Compiler()
