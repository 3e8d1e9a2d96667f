"""How a feature reaches the transformer: in order, whatever its spread, and undefined is not a value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import ModelError
from collector.features import NAMES
from ml import scaling
from ml.hyperparameters import Hyperparameters
from ml.transformer import Network
from tests.ml.samples import numbers

VALUES = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=300)


def filled(edges: npt.NDArray[np.float32], values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """What the network makes of these values of the first feature, shape (n, bins + 1)."""
    network = Network(Hyperparameters(dim=8, depth=1, heads=1), edges, 2)
    X = np.full((np.size(values), 1, len(NAMES)), np.nan, np.float32)
    X[:, 0, 0] = values
    found: npt.NDArray[np.float32] = network._scaled(torch.from_numpy(X))[:, 0, 0].numpy()
    return found


@settings(deadline=None)  # the first call of PyTorch takes its time
@given(values=VALUES)
def test_order_is_kept(values: list[float]) -> None:
    """Of two values of the training data no bin is fuller for the smaller; and they differ, if few do."""
    edges = scaling.edges_of(np.tile(np.array(values)[:, None], len(NAMES)))
    different = np.unique(np.array(values, np.float32))

    rows = filled(edges, different)

    assert ((rows >= 0) & (rows <= 1)).all()
    assert (np.diff(rows, axis=0) >= 0).all()
    if len(different) <= scaling.BINS:
        assert (np.diff(rows, axis=0) > 0).any(axis=1).all()


def test_bins_hold_equally_many() -> None:
    """However the values are spread: over ten orders of magnitude each bin has its share of the rows."""
    values = np.random.default_rng(0).lognormal(0, 5, 6400)
    edges = scaling.edges_of(np.tile(values[:, None], len(NAMES)))

    rows = filled(edges, values)[:, :-1]

    assert rows.shape[1] == scaling.BINS
    inside = ((rows > 0) & (rows < 1)).sum(axis=0)
    assert (abs(inside - 6400 / scaling.BINS) <= 2).all()


def test_undefined_is_no_value() -> None:
    """An undefined feature has empty bins, as the smallest value has, and a mark that no value has."""
    edges = scaling.edges_of(numbers(0, 100))
    smallest = edges[0, 0]

    undefined, least, beyond = filled(edges, [np.nan, smallest, smallest - 1])

    assert undefined.tolist() == [0.0] * len(undefined)
    assert least.tolist() == [*[0.0] * (len(least) - 1), 1.0]
    assert beyond.tolist() == least.tolist()


def test_the_largest_numbers() -> None:
    """Whatever float32 can hold, the network sees numbers from 0 to 1."""
    largest = float(np.finfo(np.float32).max)
    edges = scaling.edges_of(np.tile(np.array([-largest, 0.0, 1.0, largest])[:, None], len(NAMES)))

    rows = filled(edges, [-largest, -1.0, 0.5, largest])

    assert np.isfinite(rows).all()
    assert rows.min() >= 0
    assert rows.max() <= 1


def test_a_feature_that_is_nowhere_defined() -> None:
    """It has no bins, so whatever value comes later says only that it is defined."""
    edges = scaling.edges_of(np.full((5, len(NAMES)), np.nan))

    assert filled(edges, [np.nan, 7.0]).tolist() == [[0.0, 0.0], [0.0, 1.0]]


@given(seed=st.integers(0, 99), rows=st.integers(1, 100))
def test_round_trip(seed: int, rows: int) -> None:
    """The contract holds the edges to the last bit."""
    edges = scaling.edges_of(numbers(seed, rows))

    assert scaling.from_json(scaling.to_json(edges), "meta").tobytes() == edges.tobytes()


EDGES = {name: [0.0, 1.0] for name in NAMES}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {name: [0.0] for name in NAMES[1:]},
        dict(reversed(EDGES.items())),
        EDGES | {"dur": []},
        EDGES | {"dur": [1.0, 0.0]},
        EDGES | {"dur": [0.0, 0.0]},
        EDGES | {"dur": [0.0, None]},
        EDGES | {"dur": "01"},
        EDGES | {"dur": [[0.0]]},
        EDGES | {"dur": ["x"]},
    ],
)
def test_what_is_no_scaling_is_refused(document: object) -> None:
    """In one line, with the file's name."""
    with pytest.raises(ModelError, match=r"^m\.meta\.json: its scaling is not [^\n]*; restore it"):
        scaling.from_json(document, "m.meta.json")
