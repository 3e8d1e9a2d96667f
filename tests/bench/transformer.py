"""What a transformer costs, on the CPU and on a GPU where there is one.

    python -m tests.bench.transformer ROWS.jsonl

An answer, in microseconds a row: on the CPU with one thread, as `attach` and `predict` have it; on rows in
random order, each turn `TURN_S` long at least. And training, in rows a second: an epoch after a first one, on
all threads, of the rows as they are and, on a GPU, of the same `OFTEN` times over. Printed are the median of
the rounds and, in brackets, the quartiles.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from ml import dataset
from ml.dataset import Dataset
from ml.device import Device, find
from ml.hyperparameters import DEFAULTS
from ml.transformer import classifier_of
from ml.transformer_training import Schedule, batch_rows, fit
from tests.bench.engines import ROWS, SIZES, turn
from tests.bench.rounds import ROUNDS, spread

OFTEN = 64


def answering(data: Dataset, device: Device) -> None:
    """Prints what an answer takes, for so many at a time. What was learned is no matter of time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    classifier = classifier_of(
        fit(data, DEFAULTS, Schedule(epochs=1), device, lambda: None), data.classes, device
    )
    rows = data.X[np.random.default_rng(0).integers(0, len(data), ROWS)]
    for size in SIZES:
        took = [turn(classifier.predict, rows, size) for _ in range(ROUNDS)]
        print(f"{size:>9,} rows at a time: {spread(took, 1)} us a row", flush=True)
    torch.set_num_threads(threads)


def training(data: Dataset, device: Device, rounds: int) -> None:
    """Prints rows a second in training."""
    ends: list[float] = []
    fit(data, DEFAULTS, Schedule(epochs=rounds + 1), device, lambda: ends.append(time.perf_counter()))
    rates = [len(data) / took for took in np.diff(ends)]
    batch = batch_rows(Schedule(), len(data), device)
    print(f"{len(data):>9,} rows, {batch:,} a step: {spread(rates, 0)} rows a second", flush=True)


def main() -> None:
    data = dataset.read([Path(sys.argv[1])])
    many = data.subset(np.tile(np.arange(len(data)), OFTEN))
    for device in [find(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]:
        print(device, flush=True)
        answering(data, device)
        training(data, device, ROUNDS)
        if device.is_gpu:  # a CPU's steps do not grow, and neither does its rate
            training(many, device, 3)


if __name__ == "__main__":
    main()
