"""The C core compiles without a warning, and what goes wrong while compiling is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from collector.drain import FlowTable
from collector.errors import KernelError
from collector.folders import bpf_folder
from collector.loader import Compiler, compile_flags
from tests.replay import CLOCK_IN_METADATA

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


@pytest.mark.parametrize("clock", [(), (CLOCK_IN_METADATA,)], ids=["kernel clock", "clock in packets"])
def test_it_compiles_without_a_warning(clock: tuple[str, ...]) -> None:
    """Warnings as errors; and the verifier takes it."""
    with Compiler() as compiler:
        loaded = compiler.load([*SETTINGS, *STRICT, *NOT_OURS, *clock], max_connections=16)
    assert isinstance(loaded.table, FlowTable)
    loaded.close_programs()
    loaded.table.close()


def broken_copy(folder: Path, before: str, after: str) -> Path:
    """The C core with one thing changed."""
    source = folder / "bpf"
    shutil.copytree(bpf_folder(), source)
    text = (source / "flowml.bpf.c").read_text()
    assert before in text
    (source / "flowml.bpf.c").write_text(text.replace(before, after))
    return source


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
    source = broken_copy(tmp_path, before, after)

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
    (source / "flow.h").write_text(header.replace("__u8 reserved[19];", "__u8 more;\n\t__u8 reserved[18];"))

    wrong = r"struct flow: field more is at \[173, 1\] in the compiled"
    with pytest.raises(KernelError, match=wrong) as error, Compiler(source) as compiler:
        compiler.load(SETTINGS, max_connections=16)
    assert error.value.exit_code == 7
