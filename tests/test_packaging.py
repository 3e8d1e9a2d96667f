"""What flowml is shipped with: the manual page, completion, the service, the alerts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collector import config, manual
from collector.activity import Activity
from collector.mismatch import Mismatches
from tests.collector.test_watch import scraped, source
from tests.lab import end, veth_pair, wait_for
from tests.live.lives import CAPTURE, collected, lives, replay
from tests.tool import FLOWML

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "flowml.service"


def test_the_manual_page_says_what_the_help_says() -> None:
    """`make man` writes it; every option is in it, and groff has nothing to complain of."""
    page = (PACKAGING / "flowml.1").read_text()
    assert page == manual.page()
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", PACKAGING / "flowml.1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    shown = re.sub(".\b", "", done.stdout)  # bold is typed twice
    for option in config.OPTIONS:
        if option.section != "conntrack" and option.name not in ("ring_bytes", "backlog_bytes"):
            assert f"--{option.name.replace('_', '-')}" in shown


def completed(words: str) -> set[str]:
    """What a shell is offered for the last of the words."""
    environment = os.environ | {
        "_FLOWML_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run([FLOWML], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_shell_can_complete() -> None:
    """Commands, options, their values, and interfaces."""
    assert completed("flowml att") == {"attach"}
    assert {"--metrics", "--model", "--max-connections"} <= completed("flowml attach --m")
    assert completed("flowml attach lo --filter t") == {"tls", "tcp"}
    assert "lo" in completed("flowml attach l")
    assert "lo" in completed("flowml check l")


def test_what_the_completion_of_bash_is_shown_as_works() -> None:
    """`flowml --show-completion bash`, as bash reads it."""
    script = (
        f'PATH={FLOWML.parent}:$PATH; eval "$(flowml --show-completion bash)"; '
        "COMP_WORDS=(flowml ver); COMP_CWORD=1; _flowml_completion flowml; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("verify\n", "")


def test_systemd_finds_nothing_wrong_with_the_service(tmp_path: Path) -> None:
    """With flowml where it is here, and not in /opt."""
    unit = tmp_path / "flowml.service"
    unit.write_text(UNIT.read_text().replace("/opt/flowml/.venv/bin/flowml", str(FLOWML)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.live
def test_it_runs_with_what_the_service_allows(tmp_path: Path) -> None:
    """Its capabilities, system calls, address families and memory: attach, predict, serve metrics, end."""
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    model, state = tmp_path / "model.joblib", tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    with veth_pair() as wire:
        data = collected(wire, tmp_path / "train.jsonl", 10)
        subprocess.run([FLOWML, "train", data, model], capture_output=True, check=True)

        out, err = state / "out.jsonl", tmp_path / "err"
        arguments = ("--model", model, "--outfile", out, "--metrics", "9464")
        as_service: list[str | Path] = [sys.executable, "-m", "tests.service", UNIT, state]
        process = wire.right.popen(
            [*as_service, FLOWML, "attach", wire.right.iface, *CAPTURE, *arguments], err=err
        )
        try:
            wait_for(lambda: "metrics at" in err.read_text(), "attached", process=process)
            assert "running as games, confined by seccomp" in err.read_text()
            replay(wire, lives(5, seed=2), tmp_path)
            wait_for(lambda: out.exists() and len(out.read_bytes().splitlines()) == 15, "the predictions")
            fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
            text = wire.right.run([sys.executable, "-c", fetch, "http://127.0.0.1:9464/metrics"])
            assert "flowml_lines_total 15.0" in text
        finally:
            assert end(process, timeout=60) == 0
        assert "Done. Processed 15 connections" in err.read_text()


def test_the_alerts_are_on_metrics_that_there_are() -> None:
    """Every name and every value of a label in their expressions."""
    text = (PACKAGING / "prometheus" / "flowml-alerts.yml").read_text()
    samples = scraped(Activity([source()]), Mismatches(0.9, lambda line: None))
    names = {key[0] for key in samples}
    values = {value for key in samples for value in key[1:]}
    used = set(re.findall(r"\bflowml_\w+", text))
    assert len(used) >= 7
    assert used <= names
    for found in re.findall(r'(?:fate|event)=~?"([^"]+)"', text):
        assert set(found.split("|")) <= values
