"""What an answer costs: every engine against scikit-learn, in one run, on one thread.

    python -m tests.bench.engines MODEL.joblib [ROWS.jsonl]

MODEL is a forest. The rows are those of ROWS.jsonl, in random order; without it, thresholds of the forest's
own trees and the values around them, a tenth undefined: they reach leaves all over it, and are undecided
between two classes a hundred times as often as real rows, which costs.

In every round the engines take turns, each for at least `TURN_S` and on rows that it has not just seen.
Printed are the median over the rounds and, in brackets, the lowest and the highest, in microseconds a row;
and how often it goes into scikit-learn's.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from ml import dataset
from ml.engine import OnnxForest
from ml.forest import ForestClassifier, hard_rows
from ml.model import open_model

BASE = "scikit-learn"
SIZES = (1, 16, 100, 256, 10_000)
TURN_S = 0.05
ROUNDS = 11
ROWS = 11_000
SHIFT = 37
"""Rows by which each call moves on."""

Rows = npt.NDArray[np.float64]
Engine = Callable[[Rows], object]


def engines(path: Path, data: Path | None) -> tuple[dict[str, Engine], Rows]:
    """By name, scikit-learn first; and rows to ask them about."""
    files = open_model(path)
    forest: Any = joblib.load(path)
    classifier = files.load()
    assert isinstance(classifier, ForestClassifier), f"{path} is no forest"
    trees = [tree.tree_ for tree in forest.estimators_]
    onnx = OnnxForest(trees, len(classifier.labels))
    found: dict[str, Engine] = {
        BASE: forest.set_params(n_jobs=1).predict,
        "tree by tree": lambda X: classifier.exact(X).argmax(axis=1),
        "ONNX Runtime": lambda X: onnx.first_two(X.astype(np.float32)),
        "flowml": classifier.predict,
    }
    if data is None:
        return found, hard_rows(trees, ROWS).astype(np.float64)
    X = dataset.read([data]).X
    return found, X[np.random.default_rng(0).integers(0, len(X), ROWS)]


def turn(engine: Engine, rows: Rows, size: int) -> float:
    """Microseconds a row, over at least `TURN_S`."""
    calls, begin = 0, time.perf_counter()
    while (took := time.perf_counter() - begin) < TURN_S:
        first = calls * SHIFT % (len(rows) - size)
        engine(rows[first : first + size])
        calls += 1
    return took / calls / size * 1e6


def main() -> None:
    found, rows = engines(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    print(f"{'rows':>6}  " + "".join(f"{name:>34}" for name in found) + "   us a row")
    for size in SIZES:
        took: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(ROUNDS):
            for name, engine in found.items():
                took[name].append(turn(engine, rows, size))
        usual = {name: statistics.median(times) for name, times in took.items()}
        cells = [
            f"{usual[name]:.1f} [{min(times):.1f} {max(times):.1f}] {usual[BASE] / usual[name]:.1f}x"
            for name, times in took.items()
        ]
        print(f"{size:>6}  " + "".join(f"{cell:>34}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
