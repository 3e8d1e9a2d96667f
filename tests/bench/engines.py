"""What an answer costs: every engine against scikit-learn, in turns, on one thread.

python -m tests.bench.engines [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from collector.features import matrix
from ml.engine import OnnxForest
from ml.forest import ForestClassifier
from ml.model import open_model
from tests.bench import samples
from tests.bench.rounds import Found, aim, in_turns, on_core, ratios, run, spread, table

TITLE = "The answer of a forest"
HOW = """\
The forest that `flowml train` makes of every capture (100 trees), asked about real connections in random
order, so many at a time, on one thread. Every engine has rows that it has not just seen. scikit-learn is
`RandomForestClassifier.predict` with one job; flowml is what `attach` and `predict` ask, whose labels are
scikit-learn's on every row."""

BASE, TREES, ONNX, OURS = "scikit-learn", "tree by tree", "ONNX Runtime", "flowml"
SIZES = (1, 16, 100, 256, 1000, 2000, 5000, 10_000)
LEAST = {1: 200.0, 16: 1.0, 100: 1.0, 256: 4.0, 1000: 1.0, 2000: 1.0, 5000: 1.0, 10_000: 1.0}
"""How many times as fast as scikit-learn it is to be."""
TURN_S = 0.05
ROWS = 11_000
SHIFT = 37
"""Rows by which each call moves on."""

Matrix = npt.NDArray[np.float64]
Engine = Callable[[Matrix], object]


def engines(path: Path) -> dict[str, Engine]:
    """By name, scikit-learn first."""
    forest: Any = joblib.load(path)
    classifier = open_model(path).load()
    assert isinstance(classifier, ForestClassifier), f"{path} is no forest"
    trees = [tree.tree_ for tree in forest.estimators_]
    onnx = OnnxForest(trees, len(classifier.labels))
    return {
        BASE: forest.set_params(n_jobs=1).predict,
        TREES: lambda X: classifier.exact(X).argmax(axis=1),
        ONNX: lambda X: onnx.first_two(X.astype(np.float32)),
        OURS: classifier.predict,
    }


def turn(engine: Engine, rows: Matrix, size: int) -> float:
    """Microseconds a row, over at least `TURN_S`."""
    calls, begin = 0, time.perf_counter()
    while (took := time.perf_counter() - begin) < TURN_S:
        first = calls * SHIFT % (len(rows) - size)
        engine(rows[first : first + size])
        calls += 1
    return took / calls / size * 1e6


def measure(rounds: int) -> Found:
    """Microseconds a row, by rows at a time and engine."""
    rows = matrix(samples.rows(ROWS))
    took: Found = {}
    with tempfile.TemporaryDirectory() as folder, on_core(-1):
        found = engines(samples.forest(Path(folder)))
        for size in SIZES:
            turns = {name: partial(turn, engine, rows, size) for name, engine in found.items()}
            took[str(size)] = in_turns(turns, rounds)
    return {"microseconds": took, "aims": aims(took)}


def aims(took: Found) -> list[Found]:
    found = []
    for size, least in LEAST.items():
        cell = took[str(size)]
        value = statistics.median(ratios(cell[BASE], cell[OURS]))
        found.append(
            aim(
                f"{size:,} rows at a time, as fast as scikit-learn",
                f"{least:g} times",
                f"{value:.2f} times",
                reached=value >= least,
            )
        )
    return found


def markdown(found: Found) -> str:
    took = found["microseconds"]
    names = list(next(iter(took.values())))
    rows = [
        [
            f"{int(size):,}",
            *(spread(cell[name], 1) for name in names),
            spread(ratios(cell[BASE], cell[OURS]), 1),
        ]
        for size, cell in took.items()
    ]
    return table(["rows at a time; us a row", *names, "flowml, times as fast"], rows)


if __name__ == "__main__":
    run(measure, markdown)
