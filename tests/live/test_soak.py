"""`make soak` goes on working: a few seconds of it, too short to say anything of memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]


def test_seconds_of_it() -> None:
    """Every packet has a fate and every connection its line, as fast as this machine makes them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "0.1"], capture_output=True, text=True, check=False, cwd=ROOT
    )

    first, *_, verdict = done.stdout.splitlines() or [done.stderr]
    assert int(first.split()[0]) > 1000, first
    assert verdict == "flat, and every packet and connection accounted for" or (
        verdict.startswith("resident KiB grew") and ";" not in verdict
    )
