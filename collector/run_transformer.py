"""`flowml run-transformer`, whole: labelled rows in; a line for each, and what the answers are worth, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from collector.errors import ModelError, UsageError
from collector.lines import Predictions, label_lines
from collector.offline import check_names, open_outfile
from ml import dataset, device, origin, weights
from ml.dataset import Dataset
from ml.evaluate import answers, judge, summary
from ml.hyperparameters import chosen
from ml.model import ModelFiles, open_model
from ml.transformer import TransformerClassifier

__all__ = ["FORMATS", "run"]

FORMATS = ("label", "record")


def run(
    model: Path,
    paths: Sequence[Path],
    outfile: str,
    *,
    labels_file: Path | None = None,
    meta: Path | None = None,
    flags: Mapping[str, Any],
    format: str = "label",
    place: str = "auto",
    force: bool = False,
    skip_bad: bool = False,
    say: Callable[[str], None],
) -> None:
    """Answers labelled rows with a transformer, and scores the answers.

    Parameters
    ----------
    model
        Its weights.
    paths
        Rows, JSON Lines, as for training. One that cannot be used has no line.
    outfile
        Written anew; `-` is standard output.
    labels_file, meta
        In place of the labels and the contract beside the model.
    flags
        Hyperparameters by name, None for those not given: where there is no contract that tells them.
    format
        One of `FORMATS`: the label alone, or the row with the label and its probability.
    place
        One of `ml.device.DEVICES`.
    force
        Go on where the contract says that the model is for other features or another kind of capture.
    skip_bad
        Go on however many rows cannot be used.
    say
        Is given lines for people, one at a time.

    Raises
    ------
    UsageError
        A flag that says otherwise than the contract; no such format or device.
    ModelError
        A model that cannot be used, or not for such rows.
    DatasetError
        Rows that cannot be used.
    OutputError
        The lines cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"--format {format}: give one of {', '.join(FORMATS)}")
    check_names(list(map(str, paths)), outfile)
    where = device.find(place)
    files = open_model(model, labels_file, contract_file=meta, force=force)
    captured = origin.read(paths)
    files.check(filter=captured.filter, ip=captured.ip, timeouts=captured.timeouts)
    classifier = _classifier(files, flags)
    classifier.to(where)
    data = dataset.read(paths, skip_bad=skip_bad, to_train=False)
    for warning in files.warnings:
        say(f"warning: {warning}")
    if data.bad:
        say(f"left out {len(data.bad)} of {len(data) + len(data.bad)} rows: {dataset.summary(data.bad)}")
    say(f"answering on {where}")
    found = answers(classifier, data)
    predictions = Predictions(classifier.labels, *found)
    with open_outfile(outfile) as sink:
        if format == "label":
            sink.write(label_lines(predictions))
        else:
            sink.write(b"".join(_records(paths, data, predictions)))
        written = sink.written
    trained = files.contract.classes if files.contract else None
    for line in summary(judge(classifier, data, trained=trained, given=found)):
        say(line)
    say(f"Done. Processed {written} connections")


def _classifier(files: ModelFiles, flags: Mapping[str, Any]) -> TransformerClassifier:
    if not weights.is_weights(files.data):
        raise ModelError(
            f"{files.path.name} holds no weights of a transformer; give what `flowml train-transformer` wrote"
        )
    if files.contract is None:
        return weights.load(files, hyperparameters=chosen(flags), threads=None)
    told = weights.hyperparameters_of(files.contract, files.contract_name).to_json()
    for name, value in flags.items():
        if value is not None and value != told[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} {value}, but {files.contract_name} says {told[name]}: "
                "leave it out"
            )
    files.verify()
    return weights.load(files, threads=None)


def _records(paths: Sequence[Path], data: Dataset, predictions: Predictions) -> Iterator[bytes]:
    """Each row as it was read, with its answer."""
    bad = {(row.path, row.line) for row in data.bad}
    place = 0
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() or (path, number) in bad:
                    continue
                row = orjson.loads(line)
                row["label"] = predictions.labels[predictions.classes[place]]
                row["probability"] = float(predictions.probabilities[place])
                place += 1
                yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
