"""Flows in the order of their starts, in less memory than they take."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import OutputError
from collector.order import by_start
from collector.records import FLOW, Rows, joined


def flows(starts: list[tuple[int, int]]) -> Rows:
    """Of each: its start, and its originator's port; numbered in the slot."""
    rows = np.zeros(len(starts), FLOW)
    for number, (start, port) in enumerate(starts):
        rows[number]["side"][0]["first_ns"] = start
        rows[number]["ends"]["low_port"] = port
        rows[number]["slot"] = number
    return rows


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


@given(
    st.lists(st.tuples(st.integers(0, 20) | st.integers(0, 2**63), st.integers(0, 3)), max_size=60),
    st.integers(1, 7),
    st.integers(1, 70),
)
def test_whatever_memory_holds_the_order_is_the_same(
    starts: list[tuple[int, int]], batch: int, run_rows: int
) -> None:
    """By start, then by endpoints, then as they came; none is lost, none comes twice."""
    rows = flows(starts)

    found = joined(by_start(batches(rows, batch), run_rows))

    wanted = sorted(range(len(starts)), key=lambda number: starts[number])
    assert found["slot"].tolist() == wanted
    assert found.tobytes() == rows[wanted].tobytes()


def test_runs_longer_than_a_block_are_merged() -> None:
    """Many rows, few starts: equal starts lie on both sides of a block's end, and in every run."""
    starts = np.random.default_rng(0).integers(0, 50, 30_000)
    rows = np.zeros(len(starts), FLOW)
    rows["side"][:, 0]["first_ns"] = starts
    rows["slot"] = np.arange(len(starts))

    found = joined(by_start(batches(rows, 777), 9_000))

    assert found["slot"].tolist() == np.argsort(starts, kind="stable").tolist()


def test_no_room_for_what_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, which says where and what to do."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full.open("r+b", buffering=0))
    with pytest.raises(OutputError, match="point TMPDIR at a folder that has it") as error:
        list(by_start(batches(flows([(3, 0), (2, 0), (1, 0)]), 1), 2))
    assert os.strerror(errno.ENOSPC) in str(error.value)
