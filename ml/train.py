"""`flowml train`: training data in; a model, its labels, its contract and its scores out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from collector.errors import OutputError, UsageError
from ml import dataset, estimators, origin, report
from ml.contract import NAN_KEPT, Contract, flowml_features, library_versions
from ml.dataset import Dataset
from ml.estimator import classifier_of
from ml.evaluate import Evaluation, judge, shown, summary
from ml.model import contract_path, labels_path, save
from ml.scores import scores
from ml.split import SHARE, WAYS, Split, hold_out

__all__ = ["train"]

_CLASSES_SHOWN = 20
_TREES = 100

Say = Callable[[str], None]


def train(
    paths: Sequence[Path],
    model_path: Path,
    *,
    estimator: str = estimators.DEFAULT,
    trees: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    group_by: str | None = None,
    test_size: float = SHARE,
    skip_bad: bool = False,
    report_to: Path | None = None,
    say: Say,
) -> dict[str, Any]:
    """Trains a model, scores it on rows held out, and saves one that was fitted on all rows.

    Parameters
    ----------
    paths
        Training data, JSON Lines.
    model_path
        Where the model goes; its labels and contract go beside it.
    estimator
        Of `estimators.ESTIMATORS`.
    trees
        In the forest, or rounds of boosting; None: 100.
    seed
        Of the estimator and of the split: same data and same seed, same model and same scores.
    jobs
        Processors to use; None: as many as there are.
    group_by
        How rows are held out, one of `split.WAYS`; None: by capture, else by time, else none.
    test_size
        Share of the rows of each class to hold out, at most 0.5.
    skip_bad
        Train however many rows cannot be used.
    report_to
        A folder for a report on the rows held out; none if None.
    say
        Is given lines for people, one at a time.

    Returns
    -------
    The scores, as in the contract: `split`, `n_train`, `n_test`; `accuracy`, `balanced_accuracy`, `macro_f1`,
    `majority_accuracy`, `calibration_error` and `intervals` of the rows held out (None if there are none),
    and `training_accuracy`.

    Raises
    ------
    UsageError
        A parameter out of range, or a model that would overwrite its training data.
    DatasetError
        Training data that cannot be used, or cannot be held out as was asked.
    OutputError
        The model, or the report, cannot be written.
    """
    _check(paths, model_path, estimator, trees, seed, jobs, group_by, test_size)
    if report_to is not None:
        report.make_folder(report_to)
    captured = origin.read(paths)
    data = dataset.read(paths, skip_bad=skip_bad)
    _say_data(data, say)
    split = hold_out(data, seed, share=test_size, by=group_by)
    _say_split(data, split, say)

    def fit(rows: Dataset) -> Any:
        return estimators.fit(rows, estimator, trees=trees or _TREES, seed=seed, jobs=jobs)

    results, found = _score(data, split, fit, report_to is not None)
    _say_scores(results, found, say)
    fitted = fit(data)
    contract = Contract(
        features=flowml_features(),
        nan=NAN_KEPT,
        filter=captured.filter,
        timeouts=captured.timeouts,
        classes=dict(zip(data.classes, data.counts().tolist(), strict=True)),
        estimator=f"{type(fitted).__module__}.{type(fitted).__qualname__}",
        parameters=fitted.get_params(),
        versions=library_versions(),
        data_sha256=data.sha256,
        scores=results,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    contract = save(model_path, fitted, data.classes, contract)
    say(
        f"fitted on all {len(data)} rows: {model_path}, {labels_path(model_path).name}, "
        f"{contract_path(model_path).name}"
    )
    if report_to is not None and found is not None:
        document = {
            "model": report.about(model_path.name, contract),
            "data": {
                "files": [path.name for path in paths],
                "sha256": data.sha256,
                "left_out": len(data.bad),
            },
            "split": {"by": split.by, "meaning": split.meaning, "n_train": len(split.train)},
            "training_accuracy": results["training_accuracy"],
            **found.to_dict(),
        }
        report.write(report_to, f"{model_path.name} on rows held out of its training data", document)
        say(f"report: {report_to / report.PAGE}, {report.NUMBERS}")
    return results


def _check(
    paths: Sequence[Path],
    model_path: Path,
    estimator: str,
    trees: int | None,
    seed: int,
    jobs: int | None,
    group_by: str | None,
    test_size: float,
) -> None:
    """What would otherwise be found out only after minutes of training."""
    if estimator not in estimators.ESTIMATORS:
        raise UsageError(f"no estimator {estimator}: give one of {', '.join(estimators.ESTIMATORS)}")
    if trees is not None and estimator not in estimators.GROWN:
        raise UsageError(f"{estimator} has no trees: leave out --trees")
    if trees is not None and trees < 1:
        raise UsageError(f"{trees} trees: a forest needs at least 1")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}: give a number from 0 to {2**32 - 1}")
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs: give at least 1")
    if group_by is not None and group_by not in WAYS:
        raise UsageError(f"rows cannot be grouped by {group_by}: give one of {', '.join(WAYS)}")
    if not 0 < test_size <= 0.5:
        raise UsageError(f"test size {test_size}: give more than 0 and at most 0.5")
    if os.path.realpath(model_path) in map(os.path.realpath, paths):
        raise UsageError(f"{model_path} is the training data: name another file for the model")
    if not model_path.parent.is_dir():
        raise OutputError(f"cannot write {model_path}: there is no folder {model_path.parent}; make it first")


def _score(
    data: Dataset, split: Split, fit: Callable[[Dataset], Any], with_importance: bool
) -> tuple[dict[str, Any], Evaluation | None]:
    """Fits a model on the training side and scores it on the other, served as it will be."""
    seen, held = data.subset(split.train), data.subset(split.test)
    judged = classifier_of(fit(seen), "the model", data.classes, "the labels")
    trained = dict(zip(data.classes, seen.counts().tolist(), strict=True))
    found = None
    if len(held):
        found = judge(judged, held, trained=trained, with_importance=with_importance)
    # Every class has rows on this side, so that the classifier's classes are those of the data.
    of_seen = scores(seen.y, judged.predict(seen.X)[0])
    results: dict[str, Any] = {
        "split": split.by,
        "n_train": len(seen),
        "n_test": len(held),
        **(found.scores if found else dict.fromkeys(of_seen)),
        "majority_accuracy": found.majority["accuracy"] if found and found.majority else None,
        "calibration_error": found.calibration.ece if found else None,
        "intervals": found.intervals if found else None,
        "training_accuracy": of_seen["accuracy"],
    }
    return results, found


def _say_data(data: Dataset, say: Say) -> None:
    say(f"{len(data)} rows, {len(data.classes)} classes")
    if data.bad:
        total = len(data) + len(data.bad)
        say(f"left out {len(data.bad)} of {total} rows: {dataset.summary(data.bad)}")
    counts = data.counts()
    commonest_first = np.argsort(-counts, kind="stable")
    for i in commonest_first[:_CLASSES_SHOWN]:
        say(f"{counts[i]:>9} {counts[i] / len(data):>6.1%}  {shown(data.classes[i])}")
    rest = commonest_first[_CLASSES_SHOWN:]
    if len(rest):
        say(f"{counts[rest].sum():>9} {counts[rest].sum() / len(data):>6.1%}  {len(rest)} more classes")


def _say_split(data: Dataset, split: Split, say: Say) -> None:
    if split.by == "none":
        say(f"nothing is held out: {split.meaning}")
        return
    warning = "warning: " if split.by == "row" else ""
    say(f"{warning}held out: {len(split.test)} of {len(data)} rows, by {split.by}: {split.meaning}")
    held = np.bincount(data.y[split.test], minlength=len(data.classes))
    unheld = [shown(data.classes[i]) for i in np.flatnonzero(held == 0)]
    if unheld:
        named = ", ".join(unheld[:3]) + (", ..." if len(unheld) > 3 else "")
        say(
            "classes with too little data to hold any out, which are not in the score: "
            f"{len(unheld)} ({named})"
        )


def _say_scores(results: dict[str, Any], found: Evaluation | None, say: Say) -> None:
    if found is None:
        say("no score: there is nothing to hold out")
    else:
        for line in summary(found):
            say(line)
    say(f"accuracy {results['training_accuracy']:.3f} on rows trained on")
