"""`flowml train-transformer`: as `flowml train`, with a transformer in place of a forest."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.errors import OutputError, UsageError
from collector.features import NAMES
from collector.progress import progress
from ml import scaling, weights
from ml.contract import Contract
from ml.dataset import Dataset
from ml.device import Device, find
from ml.hyperparameters import DEFAULTS, Hyperparameters
from ml.model import labels_path, save_bytes
from ml.split import SHARE
from ml.train import Say, carry_out
from ml.transformer import Network, TransformerClassifier, classifier_of
from ml.transformer_training import Schedule, batch_rows, fit

__all__ = ["train"]


def train(
    paths: Sequence[Path],
    out: Path,
    *,
    labels_out: Path | None = None,
    hyperparameters: Hyperparameters = DEFAULTS,
    schedule: Schedule | None = None,
    device: str = "auto",
    group_by: str | None = None,
    test_size: float = SHARE,
    skip_bad: bool = False,
    report_to: Path | None = None,
    say: Say,
) -> dict[str, Any]:
    """Trains a transformer, scores it on rows held out, and saves one that was fitted on all rows.

    Interrupted, it writes nothing: what was learned until then is of little worth, as the learning rate is
    still high, and the scores would be those of another model.

    Parameters
    ----------
    out
        Where the weights go; the contract goes beside it.
    labels_out
        Where the labels go; None: beside it too.
    hyperparameters, schedule
        What is trained and how; None: the default.
    device
        One of `ml.device.DEVICES`.
    paths, group_by, test_size, skip_bad, report_to, say
        As in `ml.train.carry_out`, which also tells what is returned and raised.
    """
    schedule = schedule or Schedule()
    if labels_out is not None:
        _check(labels_out, [out, *paths])
    method = _Transformer(hyperparameters, schedule, find(device), labels_out, say)
    try:
        return carry_out(
            paths,
            out,
            method,
            seed=schedule.seed,
            group_by=group_by,
            test_size=test_size,
            skip_bad=skip_bad,
            report_to=report_to,
            say=say,
        )
    except KeyboardInterrupt:
        say("stopped: no model was written; fewer --epochs take less time")
        raise


def _check(labels_out: Path, others: Sequence[Path]) -> None:
    """What would otherwise be found out only after minutes of training."""
    if os.path.realpath(labels_out) in map(os.path.realpath, others):
        raise UsageError(
            f"the labels cannot go to {labels_out}, which is another file: name one of their own"
        )
    if not labels_out.parent.is_dir():
        raise OutputError(f"cannot write {labels_out}: there is no folder {labels_out.parent}; make it first")


@dataclass(frozen=True, slots=True)
class _Transformer:
    """A transformer as a `Method`."""

    features = NAMES

    hyperparameters: Hyperparameters
    schedule: Schedule
    device: Device
    labels_out: Path | None
    say: Say

    def fit(self, rows: Dataset, what: str) -> Network:
        batch = batch_rows(self.schedule, len(rows), self.device)
        self.say(f"{what}: {self.schedule.epochs} epochs, {batch} rows a step, on {self.device.to_train}")
        with progress(what, self.schedule.epochs, "epochs") as advance:
            return fit(rows, self.hyperparameters, self.schedule, self.device, lambda: advance(1))

    def classifier(self, fitted: Network, labels: tuple[str, ...]) -> TransformerClassifier:
        return classifier_of(fitted, labels, self.device)

    def about(self, fitted: Network) -> tuple[str, dict[str, Any], dict[str, str]]:
        parameters = {
            "hyperparameters": self.hyperparameters.to_json(),
            "scaling": scaling.to_json(fitted.edges.cpu().numpy()),
            "training": {**self.schedule.to_json(), "device": self.device.to_train},
        }
        return (
            weights.ESTIMATOR,
            parameters,
            {name: importlib.metadata.version(name) for name in weights.PACKAGES},
        )

    def save(self, path: Path, fitted: Network, labels: Sequence[str], contract: Contract) -> Contract:
        where = self.labels_out or labels_path(path)
        return save_bytes(path, weights.to_bytes(fitted), labels, contract, where)
