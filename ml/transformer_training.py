"""Fitting the transformer: one cycle of the learning rate over a fixed number of epochs.

No early stopping: the rate ends at nothing, the score on captures held out rises to the end but for noise,
and a model that was chosen by held-out rows could not be scored on them. No class weights: they gain nothing
that is more than noise. The figures: docs/models-transformer.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collector.errors import DatasetError, UsageError
from ml import scaling
from ml.dataset import Dataset
from ml.device import Device
from ml.hyperparameters import Hyperparameters
from ml.transformer import Network
from ml.windows import ABSENT, histories

__all__ = ["Schedule", "batch_rows", "fit"]

Epoch = Callable[[], None]
"""Is called after every epoch."""

_WEIGHT_DECAY = 0.01
_LARGEST_GRADIENT = 1.0
_WARM_UP = 0.1
_BATCH, _LARGEST_BATCH = 128, 4096
_STEPS_AN_EPOCH = 64
"""A GPU takes larger batches, as long as an epoch still has so many steps."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast it learns.

    Attributes
    ----------
    epochs
        Times that every row is seen.
    batch_size
        Rows a step; None: as `batch_rows` says.
    lr
        The highest learning rate.
    seed
        Of the first weights, of the order of rows, of dropout.

    Raises
    ------
    UsageError
        A value out of range.
    """

    epochs: int = 60
    batch_size: int | None = None
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: give at least 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: give at least 1")
        if not 0 < self.lr <= 1:
            raise UsageError(f"--lr {self.lr}: give more than 0 and at most 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: give a number from 0 to {2**32 - 1}")

    def to_json(self) -> dict[str, Any]:
        """For the contract."""
        return asdict(self)


def batch_rows(schedule: Schedule, rows: int, device: Device) -> int:
    """Rows a step."""
    if schedule.batch_size is not None:
        return schedule.batch_size
    if not device.is_gpu:
        return _BATCH
    return min(_LARGEST_BATCH, max(_BATCH, 1 << max(1, rows // _STEPS_AN_EPOCH).bit_length() - 1))


def fit(
    data: Dataset, hyperparameters: Hyperparameters, schedule: Schedule, device: Device, epoch_done: Epoch
) -> Network:
    """Trains a network on all rows of a data set.

    On a CPU the same data, seed and number of threads give the same weights.

    Raises
    ------
    DatasetError
        The loss is no number any more.
    """
    with torch.random.fork_rng(devices=[device.place] if device.is_gpu else []):
        torch.manual_seed(schedule.seed)
        network = Network(hyperparameters, scaling.edges_of(data.X), len(data.classes)).to(device.place)
        _fit(network, data, schedule, device, epoch_done)
    return network


def _fit(network: Network, data: Dataset, schedule: Schedule, device: Device, epoch_done: Epoch) -> None:
    past = histories(data, network.hyperparameters.lookback_len)
    X, history, y = (
        torch.from_numpy(array).to(device.place) for array in (data.X.astype(np.float32), past, data.y)
    )
    batch = batch_rows(schedule, len(data), device)
    steps = schedule.epochs * math.ceil(len(data) / batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=_WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.lr, total_steps=steps + 1, pct_start=_WARM_UP
    )
    scaler = torch.amp.GradScaler(device.place.type, enabled=device.dtype == torch.float16)
    network.train()
    for epoch in range(schedule.epochs):
        loss = torch.zeros((), device=device.place)
        for rows in torch.split(torch.randperm(len(data)).to(device.place), batch):
            with device.precision():
                logits = network(_windows(X, history[rows]))
            part = nn.functional.cross_entropy(logits.float(), y[rows])
            optimizer.zero_grad()
            torch.autograd.backward(scaler.scale(part))
            scale = scaler.get_scale()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= scale:  # else the gradient overflowed, and no step was taken
                rate.step()
            loss += part.detach()
        if not loss.isfinite():
            raise DatasetError(
                f"the loss is {loss.item()} after epoch {epoch + 1}: training diverged at "
                f"--lr {schedule.lr}; give a lower one"
            )
        epoch_done()


def _windows(X: Tensor, history: Tensor) -> Tensor:
    return X[history].masked_fill((history == ABSENT).unsqueeze(2), math.nan)
