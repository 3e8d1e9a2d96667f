"""The fuzz targets: nothing is found in what is kept, nor nearby; and what is planted is found."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.run import HERE, ROOT, TARGETS, arguments, build, unpack

RUNS = {"packets": 20_000, "files": 6_000}
"""Inputs of a few seconds, those that are kept among them."""

PLANTED = [
    ("packets", "parse.h", "tcp + TCP_MIN_LEN > cur->end", "tcp > cur->end"),
    ("packets", "table.h", "host_count(host, COUNT_filtered);", ";"),
    ("packets", "host.h", "host->buckets[gap] = host->buckets[i];", ";"),
    ("packets", "host.h", "__u64 to = old[i].hash & host->bucket_mask;", "__u64 to = i;"),
    ("files", "links.h", "cooked + len > cur->end", "cooked > cur->end"),
    ("files", "stream.c", "stream->at += waiting;", "stream->at += waiting / 2;"),
    ("files", "capture.c", "capture->at += captured;", "capture->at += found->caplen;"),
]
"""A target, and a line of the core that is wrong: one too few checked, one not counted, one lost."""


def fuzzed(target: str, program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Every kept input, then others that are made of them, always the same."""
    unpack(folder)
    command = [str(program), *arguments(target), "-seed=1", f"-runs={RUNS[target]}", str(folder / target)]
    environment = os.environ | {"ASAN_OPTIONS": "quarantine_size_mb=16"}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, cwd=folder, env=environment
    )


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target: str, tmp_path: Path) -> None:
    """No input breaks what a target asserts, and the sanitizers are content."""
    done = fuzzed(target, build(target, tmp_path / "built"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("target", "header", "right", "wrong"), PLANTED, ids=lambda value: value[:20])
def test_a_planted_bug_is_found(target: str, header: str, right: str, wrong: str, tmp_path: Path) -> None:
    """One line of a copy of the core is wrong: the same run fails."""
    for folder in ("bpf", HERE):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.zip", "*.py"))
    source = tmp_path / "bpf" / header
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))

    done = fuzzed(target, build(target, tmp_path / "built", tmp_path), tmp_path)

    assert done.returncode != 0
    assert "not so: " in done.stderr or "Sanitizer" in done.stderr, done.stderr[-3000:]
