"""Real connections for the benchmarks, and a forest that was trained on them.

They are those of every capture in the folder that FLOWML_TRACES names.
"""

from __future__ import annotations

import mmap
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np

from collector import kernel
from collector.drain import Ring
from collector.records import FLOW, Rows, joined
from collector.replay import Limits, Replay
from tests.bench.walking import load
from tests.conftest import captures
from tests.tool import FLOWML

__all__ = ["Feeder", "forest", "rows"]

_LIMITS = Limits(
    max_connections=100_000, tcp_establish_timeout=5000, tcp_inactivity_timeout=300_000, tls_only=False
)


def rows(count: int) -> Rows:
    """So many finished flows, shape (count,): the real ones over and over, each time in another order."""
    real = _real()
    random = np.random.default_rng(0)
    picked = np.concatenate([random.permutation(len(real)) for _ in range(-(-count // len(real)))])
    found: Rows = real[picked[:count]]
    return found


@cache
def _real() -> Rows:
    paths = captures()
    if not paths:
        raise SystemExit("set FLOWML_TRACES to a folder of captures")
    found: list[Rows] = []
    for path in paths:
        with path.open("rb") as file, Replay(file.fileno(), _LIMITS) as replay:
            found += replay.batches()
    return joined(found)


def forest(folder: Path) -> Path:
    """A forest as `flowml train` makes one: 100 trees, trained on every capture."""
    data, model = folder / "rows.jsonl", folder / "forest.joblib"
    extract: list[str | Path] = [FLOWML, "extract", *captures(), "--filter", "tcp", "--outfile", data]
    train: list[str | Path] = [FLOWML, "train", data, model]
    for command in (extract, train):
        subprocess.run(command, check=True, capture_output=True)
    return model


class Feeder:
    """A ring of finished flows, as the collector reads it, that is filled on demand with given rows."""

    def __init__(self, given: Rows) -> None:
        self.rows = given
        size = 1 << max(16, (len(given) * (FLOW.itemsize + 8)).bit_length())
        self.module = load("feeder.bpf.c", f"-DROWS={len(given)}", f"-DFLOWML_RING_BYTES={size}")
        self._program = self.module.load_func("feed", self.module.SCHED_CLS).fd
        self.ring = Ring(os.dup(self.module["finished"].map_fd), size)
        with mmap.mmap(self.module["rows"].map_fd, _pages(given.nbytes)) as mapped:
            mapped[: given.nbytes] = np.ascontiguousarray(given).tobytes()

    def feed(self, count: int) -> None:
        """Puts the next `count` rows into the ring."""
        assert kernel.run_program(self._program, repeat=count) == 0, "the ring of the feeder is full"

    def close(self) -> None:
        self.ring.close()
        self.module.cleanup()


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
