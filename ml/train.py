"""`flowml train`: training data in; a model, its labels, its contract and its scores out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from collector.errors import OutputError, UsageError
from collector.features import NAMES, columns, listed
from ml import dataset, estimators, origin, report
from ml.classifier import Classifier
from ml.contract import NAN_KEPT, Contract, flowml_features, library_versions
from ml.dataset import Dataset
from ml.estimator import classifier_of
from ml.evaluate import Evaluation, answers, judge, shown, summary
from ml.model import contract_path, labels_path, save
from ml.scores import scores
from ml.split import SHARE, WAYS, Split, hold_out

__all__ = ["Method", "carry_out", "train"]

_CLASSES_SHOWN = 20
_TREES = 100

Say = Callable[[str], None]


class Method(Protocol):
    """What is trained, and what becomes of it."""

    @property
    def features(self) -> tuple[str, ...]:
        """Of the rows' features, those that it looks at."""

    def fit(self, rows: Dataset, what: str) -> Any:
        """Fits one on all of these rows; `what` says why, for people who wait."""

    def classifier(self, fitted: Any, labels: tuple[str, ...]) -> Classifier:
        """It, as it will be served."""

    def about(self, fitted: Any) -> tuple[str, dict[str, Any], dict[str, str]]:
        """For the contract: `estimator`, `parameters`, and `versions` of what else it depends on."""

    def save(self, path: Path, fitted: Any, labels: Sequence[str], contract: Contract) -> Contract:
        """Writes it with its labels and its contract; answers the contract as it was written."""


def train(
    paths: Sequence[Path],
    model_path: Path,
    *,
    estimator: str = estimators.DEFAULT,
    features: str | None = None,
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
    estimator
        Of `estimators.ESTIMATORS`.
    features
        Names of those that it is trained on, between commas, as `features.listed` takes them; None: all.
    trees
        In the forest, or rounds of boosting; None: 100.
    seed
        Of the estimator and of the split: same data and same seed, same model and same scores.
    jobs
        Processors to use; None: as many as there are.
    paths, model_path, group_by, test_size, skip_bad, report_to, say
        As in `carry_out`, which also tells what is returned and raised.
    """
    if estimator not in estimators.ESTIMATORS:
        raise UsageError(f"no estimator {estimator}: give one of {', '.join(estimators.ESTIMATORS)}")
    if trees is not None and estimator not in estimators.GROWN:
        raise UsageError(f"{estimator} has no trees: leave out --trees")
    if trees is not None and trees < 1:
        raise UsageError(f"{trees} trees: a forest needs at least 1")
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs: give at least 1")
    names = NAMES if features is None else listed(features)
    method = _Estimator(estimator, names, trees or _TREES, seed, jobs)
    return carry_out(
        paths,
        model_path,
        method,
        seed=seed,
        group_by=group_by,
        test_size=test_size,
        skip_bad=skip_bad,
        report_to=report_to,
        say=say,
    )


@dataclass(frozen=True, slots=True)
class _Estimator:
    """A scikit-learn estimator as a `Method`."""

    name: str
    features: tuple[str, ...]
    trees: int
    seed: int
    jobs: int | None

    def fit(self, rows: Dataset, what: str) -> Any:
        rows = replace(rows, X=rows.X[:, columns(self.features)])
        return estimators.fit(rows, self.name, trees=self.trees, seed=self.seed, jobs=self.jobs)

    def classifier(self, fitted: Any, labels: tuple[str, ...]) -> Classifier:
        return classifier_of(fitted, "the model", labels, "the labels", self.features)

    def about(self, fitted: Any) -> tuple[str, dict[str, Any], dict[str, str]]:
        return f"{type(fitted).__module__}.{type(fitted).__qualname__}", fitted.get_params(), {}

    def save(self, path: Path, fitted: Any, labels: Sequence[str], contract: Contract) -> Contract:
        return save(path, fitted, labels, contract)


def carry_out(
    paths: Sequence[Path],
    model_path: Path,
    method: Method,
    *,
    seed: int,
    group_by: str | None,
    test_size: float,
    skip_bad: bool,
    report_to: Path | None,
    say: Say,
) -> dict[str, Any]:
    """Trains by any method: scores one fitted on a part of the rows, and saves one fitted on all.

    Parameters
    ----------
    paths
        Training data, JSON Lines.
    model_path
        Where the model goes; its labels and contract go beside it.
    method
        What is trained.
    seed
        Of the split.
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
    _check(paths, model_path, seed, group_by, test_size)
    if report_to is not None:
        report.make_folder(report_to)
    captured = origin.read(paths)
    data = dataset.read(paths, skip_bad=skip_bad)
    _say_data(data, say)
    split = hold_out(data, seed, share=test_size, by=group_by)
    _say_split(data, split, say)
    results, found = _score(data, split, method, report_to is not None)
    _say_scores(results, found, say)
    fitted = method.fit(data, "fitting on all rows")
    estimator, parameters, versions = method.about(fitted)
    contract = Contract(
        features=flowml_features(method.features),
        nan=NAN_KEPT,
        filter=captured.filter,
        ip=captured.ip,
        timeouts=captured.timeouts,
        classes=dict(zip(data.classes, data.counts().tolist(), strict=True)),
        estimator=estimator,
        parameters=parameters,
        versions=library_versions() | versions,
        data_sha256=data.sha256,
        scores=results,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    contract = method.save(model_path, fitted, data.classes, contract)
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
    paths: Sequence[Path], model_path: Path, seed: int, group_by: str | None, test_size: float
) -> None:
    """What would otherwise be found out only after minutes of training."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}: give a number from 0 to {2**32 - 1}")
    if group_by is not None and group_by not in WAYS:
        raise UsageError(f"rows cannot be grouped by {group_by}: give one of {', '.join(WAYS)}")
    if not 0 < test_size <= 0.5:
        raise UsageError(f"test size {test_size}: give more than 0 and at most 0.5")
    if os.path.realpath(model_path) in map(os.path.realpath, paths):
        raise UsageError(f"{model_path} is the training data: name another file for the model")
    if not model_path.parent.is_dir():
        raise OutputError(f"cannot write {model_path}: there is no folder {model_path.parent}; make it first")


def _score(
    data: Dataset, split: Split, method: Method, with_importance: bool
) -> tuple[dict[str, Any], Evaluation | None]:
    """Fits a model on the training side and scores it on the other, served as it will be."""
    seen, held = data.subset(split.train), data.subset(split.test)
    judged = method.classifier(method.fit(seen, "fitting on rows not held out"), data.classes)
    trained = dict(zip(data.classes, seen.counts().tolist(), strict=True))
    found = None
    if len(held):
        found = judge(judged, held, trained=trained, with_importance=with_importance)
    # Every class has rows on this side, so that the classifier's classes are those of the data.
    of_seen = scores(seen.y, answers(judged, seen)[0])
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
