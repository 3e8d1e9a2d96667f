"""Labels: what a class id stands for. On disk a JSON array, indexed by id, beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from collector.errors import ModelError

__all__ = ["decode", "from_json", "labels_path", "to_json"]


def labels_path(model: Path) -> Path:
    """The file of labels beside a model."""
    return model.with_name(model.name + ".labels.json")


def to_json(labels: Sequence[str]) -> bytes:
    """For the file beside the model."""
    return orjson.dumps(list(labels), option=orjson.OPT_APPEND_NEWLINE)


def from_json(data: bytes, name: str) -> tuple[str, ...]:
    """Reads what `to_json`, or a user, wrote.

    Parameters
    ----------
    name
        Of the file, for messages.

    Raises
    ------
    ModelError
        Not a JSON array of text.
    """
    try:
        labels = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ModelError(f"{name} is not JSON ({error}); give a JSON array of labels") from None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"{name} is not an array of text; give a JSON array of labels")
    return tuple(labels)


def decode(classes: Any, model: str, labels: tuple[str, ...] | None, labels_name: str) -> tuple[str, ...]:
    """The label of each of an estimator's classes, in their order.

    Parameters
    ----------
    classes
        The estimator's `classes_`: class ids, or text, which is its own label.
    model, labels_name
        Names of the files, for messages.
    labels
        Indexed by class id; None: `unknown_<id>`.

    Raises
    ------
    ModelError
        Fewer labels than classes, or classes that are neither text nor ids.
    """
    if isinstance(classes, list):
        raise ModelError(f"{model} has {len(classes)} outputs; give a classifier of one")
    if all(isinstance(label, str) for label in classes):
        return tuple(map(str, classes))
    ids = np.array(list(classes))
    if ids.dtype.kind not in "biuf" or not (np.isfinite(ids) & (ids >= 0) & (ids == np.floor(ids))).all():
        raise ModelError(
            f"{model} has classes that are neither text nor ids from 0; train it on one of these"
        )
    if labels is None:
        return tuple(f"unknown_{int(i)}" for i in ids)
    if ids.max() >= len(labels):
        raise ModelError(
            f"{labels_name} has {len(labels)} labels, but {model} has {len(ids)} classes "
            f"with ids up to {int(ids.max())}; give the labels that the model was trained with"
        )
    return tuple(labels[int(i)] for i in ids)
