"""What class ids are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from collector.errors import ModelError
from ml.labels import decode, from_json, to_json

LABELS = ("camera", "plug", "lamp")


def test_round_trip() -> None:
    """Labels come back as they were written, whatever is in them."""
    labels = ("02:00:00:00:00:01", "", 'Küche "1"\n', "\x00")

    assert from_json(to_json(labels), "x") == labels


@pytest.mark.parametrize("text", [b'{"0": "camera"}', b'["camera", 1]', b'"camera"', b"null"])
def test_no_array_of_text(text: bytes) -> None:
    """Labels in any other form are refused, by the name of their file."""
    with pytest.raises(ModelError) as refused:
        from_json(text, "names.json")

    assert str(refused.value) == "names.json is not an array of text; give a JSON array of labels"


def test_no_json() -> None:
    """So is what is not JSON."""
    with pytest.raises(ModelError, match=r"^names\.json is not JSON \(.*\); give a JSON array of labels$"):
        from_json(b"camera\nplug\n", "names.json")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array([0, 1, 2]), LABELS),
        (np.array([2, 0]), ("lamp", "camera")),
        (np.array([0.0, 2.0]), ("camera", "lamp")),
        (np.array([False, True]), ("camera", "plug")),
        (np.array([1], dtype=object), ("plug",)),
        (np.array(["x", "y"]), ("x", "y")),
        (np.array(["x", "y"], dtype=object), ("x", "y")),
    ],
)
def test_decode(classes: Any, expected: tuple[str, ...]) -> None:
    """Class ids index the labels; classes that are text are their own labels."""
    assert decode(classes, "m.joblib", LABELS, "l.json") == expected


def test_no_labels() -> None:
    """Without labels a class is named by its id, not by its place."""
    assert decode(np.array([0, 4]), "m.joblib", None, "l.json") == ("unknown_0", "unknown_4")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            np.arange(5),
            "l.json has 3 labels, but m.joblib has 5 classes with ids up to 4; "
            "give the labels that the model was trained with",
        ),
        (
            np.array([1, 2, 3]),
            "l.json has 3 labels, but m.joblib has 3 classes with ids up to 3; "
            "give the labels that the model was trained with",
        ),
        (
            np.array([-1, 1]),
            "m.joblib has classes that are neither text nor ids from 0; train it on one of these",
        ),
        (
            np.array([0.5, np.nan]),
            "m.joblib has classes that are neither text nor ids from 0; train it on one of these",
        ),
        (
            np.array(["x", 1], dtype=object),
            "m.joblib has classes that are neither text nor ids from 0; train it on one of these",
        ),
        ([np.arange(2), np.arange(3)], "m.joblib has 2 outputs; give a classifier of one"),
    ],
)
def test_classes_that_cannot_be_decoded(classes: Any, message: str) -> None:
    """Too few labels, and classes that are no ids, are refused with both numbers."""
    with pytest.raises(ModelError) as refused:
        decode(classes, "m.joblib", LABELS, "l.json")

    assert str(refused.value) == message
