"""What an answer of a transformer costs, on one thread, in microseconds a row.

    python -m tests.bench.transformer MODEL.pt ROWS.jsonl

Printed are the median over the rounds and, in brackets, the lowest and the highest; each turn is of at least
`TURN_S`, on rows in random order.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np

from ml import dataset
from ml.model import open_model
from tests.bench.engines import ROWS, SIZES, turn
from tests.bench.rounds import ROUNDS


def main() -> None:
    classifier = open_model(Path(sys.argv[1])).load()
    X = dataset.read([Path(sys.argv[2])], to_train=False).X
    rows = X[np.random.default_rng(0).integers(0, len(X), ROWS)]
    for size in SIZES:
        took = [turn(classifier.predict, rows, size) for _ in range(ROUNDS)]
        print(
            f"{size:>6}  {statistics.median(took):.1f} [{min(took):.1f} {max(took):.1f}] us a row", flush=True
        )


if __name__ == "__main__":
    main()
