"""`flowml train`: training data in; a model, its labels, its contract and its scores out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from collector.errors import OutputError, UsageError
from ml import dataset, forest, origin
from ml.contract import NAN_KEPT, Contract, flowml_features, library_versions
from ml.dataset import Dataset
from ml.model import contract_path, labels_path, save
from ml.scores import majority_accuracy, scores
from ml.split import Split, hold_out

__all__ = ["train"]

_CLASSES_SHOWN = 20

Report = Callable[[str], None]


def train(
    paths: Sequence[Path],
    model_path: Path,
    *,
    trees: int = 100,
    seed: int = 0,
    jobs: int | None = None,
    skip_bad: bool = False,
    report: Report,
) -> dict[str, Any]:
    """Trains a forest, scores it on rows held out, and saves one that was fitted on all rows.

    Parameters
    ----------
    paths
        Training data, JSON Lines.
    model_path
        Where the model goes; its labels and contract go beside it.
    trees
        In the forest.
    seed
        Of the forest and of the split: same data and same seed, same model and same scores.
    jobs
        Trees fitted at a time; None: as many as there are CPUs.
    skip_bad
        Train however many rows cannot be used.
    report
        Is given lines for people, one at a time.

    Returns
    -------
    The scores, as in the contract: `split`, `n_train`, `n_test`; `accuracy`, `balanced_accuracy`, `macro_f1`
    and `majority_accuracy` of the rows held out (None if there are none), and `training_accuracy`.

    Raises
    ------
    UsageError
        A parameter out of range, or a model that would overwrite its training data.
    DatasetError
        Training data that cannot be used.
    OutputError
        The model cannot be written.
    """
    _check(paths, model_path, trees, seed, jobs)
    captured = origin.read(paths)
    data = dataset.read(paths, skip_bad=skip_bad)
    _report_data(data, report)
    split = hold_out(data, seed)
    _report_split(data, split, report)
    results = _score(data, split, trees, seed, jobs)
    _report_scores(data, split, results, report)
    estimator = forest.train(data, trees, seed, jobs)
    contract = Contract(
        features=flowml_features(),
        nan=NAN_KEPT,
        filter=captured.filter,
        timeouts=captured.timeouts,
        classes=dict(zip(data.classes, data.counts().tolist(), strict=True)),
        estimator=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        parameters=estimator.get_params(),
        versions=library_versions(),
        data_sha256=data.sha256,
        scores=results,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    save(model_path, estimator, data.classes, contract)
    report(
        f"fitted on all {len(data)} rows: {model_path}, {labels_path(model_path).name}, "
        f"{contract_path(model_path).name}"
    )
    return results


def _check(paths: Sequence[Path], model_path: Path, trees: int, seed: int, jobs: int | None) -> None:
    """What would otherwise be found out only after minutes of training."""
    if trees < 1:
        raise UsageError(f"{trees} trees: a forest needs at least 1")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}: give a number from 0 to {2**32 - 1}")
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs: give at least 1")
    if os.path.realpath(model_path) in map(os.path.realpath, paths):
        raise UsageError(f"{model_path} is the training data: name another file for the model")
    if not model_path.parent.is_dir():
        raise OutputError(f"cannot write {model_path}: there is no folder {model_path.parent}; make it first")


def _score(data: Dataset, split: Split, trees: int, seed: int, jobs: int | None) -> dict[str, Any]:
    """Fits a forest on the training side and scores it on the other."""
    seen, held = data.subset(split.train), data.subset(split.test)
    judged = forest.ForestClassifier(forest.train(seen, trees, seed, jobs), data.classes)
    return {
        "split": split.by,
        "n_train": len(seen),
        "n_test": len(held),
        **scores(held.y, judged.predict(held.X)[0]),
        "majority_accuracy": majority_accuracy(seen.y, held.y),
        "training_accuracy": scores(seen.y, judged.predict(seen.X)[0])["accuracy"],
    }


def _report_data(data: Dataset, report: Report) -> None:
    report(f"{len(data)} rows, {len(data.classes)} classes")
    if data.bad:
        total = len(data) + len(data.bad)
        report(f"left out {len(data.bad)} of {total} rows: {dataset.summary(data.bad)}")
    counts = data.counts()
    commonest_first = np.argsort(-counts, kind="stable")
    for i in commonest_first[:_CLASSES_SHOWN]:
        report(f"{counts[i]:>9} {counts[i] / len(data):>6.1%}  {_shown(data.classes[i])}")
    rest = commonest_first[_CLASSES_SHOWN:]
    if len(rest):
        report(f"{counts[rest].sum():>9} {counts[rest].sum() / len(data):>6.1%}  {len(rest)} more classes")


def _report_split(data: Dataset, split: Split, report: Report) -> None:
    report(f"held out: {len(split.test)} of {len(data)} rows, by {split.by}: {split.meaning}")
    held = np.bincount(data.y[split.test], minlength=len(data.classes))
    unheld = [_shown(data.classes[i]) for i in np.flatnonzero(held == 0)]
    if unheld:
        named = ", ".join(unheld[:3]) + (", ..." if len(unheld) > 3 else "")
        report(
            "classes with too little data to hold any out, which are not in the score: "
            f"{len(unheld)} ({named})"
        )


def _report_scores(data: Dataset, split: Split, results: dict[str, Any], report: Report) -> None:
    if results["accuracy"] is None:
        report("no score: there is nothing to hold out")
    else:
        commonest = data.classes[int(np.argmax(np.bincount(data.y[split.train])))]
        report(
            f"accuracy {results['accuracy']:.3f} on rows held out; "
            f"always answering {_shown(commonest)} would have {results['majority_accuracy']:.3f}"
        )
        report(f"balanced accuracy {results['balanced_accuracy']:.3f}, macro F1 {results['macro_f1']:.3f}")
    report(f"accuracy {results['training_accuracy']:.3f} on rows trained on")


def _shown(label: str) -> str:
    """A label as it can be printed: labels come from a file, and may hold anything."""
    return label if label.isprintable() else ascii(label)
