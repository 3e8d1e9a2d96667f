"""The command line: its help, its version, and what it says of a wrong one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from collector.commands import app_for

ROOT = Path(__file__).resolve().parent.parent.parent
FLOWML = Path(sys.executable).with_name("flowml")


def test_help_imports_nothing_heavy() -> None:
    """It answers at once: no numpy, no scikit-learn, no pyroute2."""
    code = (
        "import sys\nfrom collector.commands import app_for\n"
        "try:\n    app_for([])(['attach', '--help'], standalone_mode=False)\n"
        "finally:\n    heavy = {'numpy', 'sklearn', 'pyroute2', 'bcc', 'joblib'}\n"
        "    print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "set()"


def test_a_command_alone_is_as_among_all() -> None:
    """For one that is named only its module is made: it is found there, and its help is the same."""
    whole: Any = typer.main.get_command(app_for([]))
    for name, command in whole.commands.items():
        alone: Any = typer.main.get_command(app_for([name, "--help"]))
        found = alone.commands[name]
        assert len(alone.commands) < len(whole.commands)
        assert found.get_help(typer.Context(found)) == command.get_help(typer.Context(command))


def test_numpy_starts_no_threads() -> None:
    """Its library for matrices would start one for each processor, which does nothing but look for work."""
    code = (
        "import atexit, os, sys\nfrom collector.cli import main\n"
        "atexit.register(lambda: print('numpy' in sys.modules, len(os.listdir('/proc/self/task'))))\n"
        "sys.argv = ['flowml', 'extract', '/dev/null', '--outfile', '/dev/null']\nmain()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stdout == "True 1\n"


def test_a_wrong_command_line_is_one_line() -> None:
    """And exit code 2."""
    for arguments in (["attach"], ["atach"], ["collect", "lo"], ["train", "x", "y", "--trees", "many"]):
        done = subprocess.run([FLOWML, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), arguments
        assert done.stderr.startswith("flowml: ")


def test_features_need_a_record() -> None:
    """A bare label has no room for them; that is said before anything is opened."""
    arguments = ["attach", "lo", "--model", "none.joblib", "--features"]
    done = subprocess.run([FLOWML, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "add --format record" in done.stderr


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    """`flowml --version | true`."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as stdout:
        done = subprocess.run([FLOWML, "--version"], stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_version_is_the_package_s() -> None:
    """`flowml --version`, as in pyproject.toml."""
    shown = subprocess.run([FLOWML, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    assert shown == f"flowml {found[1]}\n"
