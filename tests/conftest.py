"""What the rings of tests share: which of them this machine can run, and the programs they run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replay import Replay

TRACES = os.environ.get("FLOWML_TRACES")
REQUIRED = os.environ.get("FLOWML_REQUIRE_KERNEL") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A machine that cannot run a test skips it, unless it has to: then that is a failure."""
    needs_root = any(item.iter_markers("kernel")) or any(item.iter_markers("live"))
    if needs_root and os.geteuid() != 0:
        (pytest.fail if REQUIRED else pytest.skip)("needs root")
    if any(item.iter_markers("traces")) and not TRACES:
        pytest.skip("FLOWML_TRACES names no folder of captures")


def captures() -> list[Path]:
    """Every capture in the folder that FLOWML_TRACES names, sorted."""
    return sorted(Path(TRACES).rglob("*.pcap")) if TRACES else []


@pytest.fixture(scope="session")
def compiled_replay() -> Iterator[Replay]:
    """The programs in the kernel with the clock in the packets, compiled once."""
    with Replay() as programs:
        yield programs


@pytest.fixture
def replay(compiled_replay: Replay) -> Replay:
    """The same, as new."""
    compiled_replay.restart()
    return compiled_replay
