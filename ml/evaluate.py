"""Judging a model: its answers to rows that it has not seen, and `flowml evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.features import NAMES
from collector.progress import progress
from ml import dataset, origin, report
from ml.classifier import Answers, Classifier, Sequential
from ml.contract import Contract
from ml.dataset import NO_CAPTURE, Dataset
from ml.model import open_model
from ml.scores import Calibration, ClassScore, calibration, class_scores, confusion, intervals, scores
from ml.windows import in_time

__all__ = ["Evaluation", "answers", "evaluate", "judge", "shown", "summary"]

_BATCH = 10_000
_SHUFFLES = 5
_NAMED = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a model's answers to some rows are worth.

    Attributes
    ----------
    rows, captures
        How many there are; rows that do not name a capture are of none.
    scores
        `accuracy`, `balanced_accuracy`, `macro_f1`. A row of a label that the model does not know is wrong.
    intervals
        Lower and upper end of each at 95 %, from a bootstrap over captures; None without two captures.
    majority
        `label`, and the `accuracy` of always answering it: the commonest of the training rows. None where
        those are unknown.
    unseen
        Label to rows, of those labels that the model does not know.
    calibration
        Whether its probabilities can be believed.
    classes
        How each class fared, commonest first.
    confusion
        Rows of class i that were answered with class j, in the order of `labels`.
    labels
        The model's, then the unseen.
    importance
        For each feature the loss of accuracy when its column is shuffled: `feature`, `mean` and `std` over
        the shufflings, largest first. None if that was not asked for.
    """

    rows: int
    captures: int
    scores: dict[str, float | None]
    intervals: dict[str, list[float]] | None
    majority: dict[str, Any] | None
    unseen: dict[str, int]
    calibration: Calibration
    classes: list[ClassScore]
    confusion: list[list[int]]
    labels: tuple[str, ...]
    importance: list[dict[str, Any]] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def judge(
    classifier: Classifier,
    data: Dataset,
    *,
    trained: dict[str, int] | None,
    with_importance: bool = False,
    given: Answers | None = None,
) -> Evaluation:
    """Asks a classifier about rows whose labels are known.

    Parameters
    ----------
    data
        One row or more.
    trained
        Label to rows in training; None where that is unknown.
    with_importance
        Shuffle each feature in turn, which asks about every row another 85 times.
    given
        Its `answers`, where they are known already.
    """
    labels = classifier.labels + tuple(label for label in data.classes if label not in set(classifier.labels))
    number = {label: i for i, label in enumerate(labels)}
    truth = np.array([number[label] for label in data.classes], dtype=np.intp)[data.y]
    classes, probabilities = answers(classifier, data) if given is None else given
    matrix = confusion(truth, classes, len(labels))
    counts = np.bincount(truth, minlength=len(labels))
    return Evaluation(
        rows=len(data),
        captures=len(np.unique(data.captures[data.captures != NO_CAPTURE])),
        scores=scores(truth, classes),
        intervals=intervals(truth, classes, data.captures),
        majority=_majority(trained, labels, counts),
        unseen={label: int(counts[number[label]]) for label in labels[len(classifier.labels) :]},
        calibration=calibration(truth == classes, probabilities),
        classes=class_scores(matrix, labels, trained),
        confusion=matrix.tolist(),
        labels=labels,
        importance=_importance(classifier, data, truth) if with_importance else None,
    )


def answers(classifier: Classifier, data: Dataset) -> Answers:
    """What a classifier says of labelled rows, in their order.

    One that looks at the connections before is asked in order of time, capture by capture; a device is then
    what the label says that it is.
    """
    order = np.arange(len(data))
    if isinstance(classifier, Sequential):
        classifier.forget()
        order = in_time(data)
        order = order[np.argsort(data.captures[order], kind="stable")]
    found = []
    # In batches, so that many rows do not take much memory.
    for rows in np.split(order, range(_BATCH, len(data), _BATCH)):
        if isinstance(classifier, Sequential):
            senders = list(zip(data.captures[rows].tolist(), data.y[rows].tolist(), strict=True))
            found.append(classifier.predict_in_turn(data.X[rows], senders))
        else:
            found.append(classifier.predict(data.X[rows]))
    classes, probabilities = (np.concatenate(part) for part in zip(*found, strict=True))
    back = np.argsort(order)
    return classes[back], probabilities[back]


def evaluate(
    model: Path,
    paths: Sequence[Path],
    *,
    labels_file: Path | None = None,
    force: bool = False,
    skip_bad: bool = False,
    report_to: Path | None = None,
    say: Say,
) -> dict[str, Any]:
    """Scores a model on labelled rows, which should be rows that it was not trained on.

    Parameters
    ----------
    model
        With its labels and its contract beside it.
    paths
        Test data, JSON Lines, as training data is.
    labels_file
        Labels in place of those beside the model.
    force
        Go on where the contract says that the model is for other features or another kind of capture.
    skip_bad
        Go on however many rows cannot be used.
    report_to
        A folder for the report; none if None.
    say
        Is given lines for people, one at a time.

    Returns
    -------
    The numbers of the report: `Evaluation` as plain data, and about the model and the data.

    Raises
    ------
    ModelError
        The model cannot be used, or is not for data like this.
    DatasetError
        Test data that cannot be used.
    OutputError
        The report cannot be written.
    """
    if report_to is not None:
        report.make_folder(report_to)
    captured = origin.read(paths)
    files = open_model(model, labels_file, force=force)
    files.check(filter=captured.filter, ip=captured.ip, timeouts=captured.timeouts)
    classifier = files.load()
    data = dataset.read(paths, skip_bad=skip_bad, to_train=False)
    for warning in [*files.warnings, *_doubts(files.contract, captured, data)]:
        say(f"warning: {warning}")
    found = judge(
        classifier,
        data,
        trained=files.contract.classes if files.contract else None,
        with_importance=report_to is not None,
    )
    for line in summary(found):
        say(line)
    document = {
        "model": report.about(model.name, files.contract),
        "data": {"files": [path.name for path in paths], "sha256": data.sha256, "left_out": len(data.bad)},
        **found.to_dict(),
    }
    if report_to is not None:
        report.write(report_to, f"{model.name} on {', '.join(path.name for path in paths)}", document)
        say(f"report: {report_to / report.PAGE}, {report.NUMBERS}")
    return document


def summary(found: Evaluation) -> list[str]:
    """Lines for people."""
    lines = [f"{found.rows} rows of {found.captures} captures" if found.captures else f"{found.rows} rows"]
    ends = found.intervals or {}
    for name, value in found.scores.items():
        interval = f" [{ends[name][0]:.3f} {ends[name][1]:.3f}]" if name in ends else ""
        lines.append(f"{name.replace('_', ' ').replace('f1', 'F1')} {value:.3f}{interval}")
    if found.majority is not None:
        lines[1] += (
            f"; always answering {shown(found.majority['label'])} would have {found.majority['accuracy']:.3f}"
        )
    lines.append(
        "in brackets: 95 % intervals, from a bootstrap over captures"
        if ends
        else "no intervals: they are over captures, and the rows do not name two"
    )
    lines.append(f"calibration error {found.calibration.ece:.3f}")
    if found.unseen:
        rows = sum(found.unseen.values())
        named = ", ".join(map(shown, list(found.unseen)[:_NAMED]))
        more = ", ..." if len(found.unseen) > _NAMED else ""
        lines.append(
            f"labels that the model does not know, scored as wrong: {len(found.unseen)}, "
            f"in {rows} of {found.rows} rows ({named}{more})"
        )
    return lines


def shown(label: str) -> str:
    """A label as it can be printed: labels come from a file, and may hold anything."""
    return label if label.isprintable() else ascii(label)


def _doubts(contract: Contract | None, captured: origin.Origin, data: Dataset) -> list[str]:
    """What makes the scores worth less than they look."""
    doubts = []
    if data.bad:
        doubts.append(
            f"left out {len(data.bad)} of {len(data) + len(data.bad)} rows: {dataset.summary(data.bad)}"
        )
    if contract is not None and (unknown := captured.unknown()):
        doubts.append(
            f"the test data does not say with which {', '.join(unknown)} it was captured: "
            "scores only mean something if it was as the training data was"
        )
    if contract is not None and contract.data_sha256 == data.sha256:
        doubts.append("this is the data that the model was trained on: its scores flatter")
    return doubts


def _majority(
    trained: dict[str, int] | None, labels: tuple[str, ...], counts: npt.NDArray[np.intp]
) -> dict[str, Any] | None:
    if not trained:
        return None
    label = max(trained, key=lambda one: trained[one])
    rows = int(counts[labels.index(label)]) if label in labels else 0
    return {"label": label, "accuracy": rows / int(counts.sum())}


def _importance(classifier: Classifier, data: Dataset, truth: npt.NDArray[np.intp]) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    before = float(np.mean(answers(classifier, data)[0] == truth))
    shuffled = replace(data, X=data.X.copy())
    found = []
    with progress("shuffling features", len(NAMES), "features") as advance:
        for i, name in enumerate(NAMES):
            losses = []
            for _ in range(_SHUFFLES):
                shuffled.X[:, i] = random.permutation(data.X[:, i])
                losses.append(before - float(np.mean(answers(classifier, shuffled)[0] == truth)))
            shuffled.X[:, i] = data.X[:, i]
            found.append({"feature": name, "mean": float(np.mean(losses)), "std": float(np.std(losses))})
            advance(1)
    return sorted(found, key=lambda one: -float(one["mean"]))
