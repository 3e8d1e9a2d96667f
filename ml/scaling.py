"""How a feature reaches the transformer: where its value lies among those of the training data.

Sums of bytes, rates and durations span ten orders of magnitude, so neither a mean and a deviation nor a
logarithm parts all of them well, and 17 features would want 17 decisions. The quantiles of the training data
cut each feature into bins that hold about as many connections each, however its values are spread. A value
becomes one number a bin: 1 for every bin below it, how far it has come in its own, 0 for those above. That
keeps the order and loses nothing within a bin; values beyond the training data count as its ends. A feature
of few values, as a TTL, has an edge at each of them.

An undefined feature has 0 in every bin, as the smallest value has, and a number of its own tells the two
apart: whether the feature is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.errors import ModelError
from collector.features import NAMES

__all__ = ["BINS", "Edges", "edges_of", "from_json", "to_json"]

BINS = 64
"""Of each feature, at most."""

Edges = npt.NDArray[np.float32]
"""Shape (17, n_edges): the edges of the bins of each feature, ascending; one with fewer repeats its last."""


def edges_of(X: npt.NDArray[np.float64]) -> Edges:
    """The edges that part training data.

    Parameters
    ----------
    X
        Shape (n_rows, 17); NaN where undefined. A feature that nowhere is defined has its edges at 0.
    """
    return _padded([_edges(column[~np.isnan(column)]) for column in X.T.astype(np.float32)])


def _edges(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    different = np.unique(values)
    if len(different) == 0:
        return np.zeros(1, np.float32)
    if len(different) <= BINS + 1:
        return different
    return np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)).astype(np.float32))


def _padded(features: list[npt.NDArray[np.float32]]) -> Edges:
    width = max(2, *map(len, features))
    return np.stack([np.pad(edges, (0, width - len(edges)), "edge") for edges in features])


def to_json(edges: Edges) -> dict[str, list[float]]:
    """For the contract: by name of the feature, each edge once."""
    return {name: np.unique(values).tolist() for name, values in zip(NAMES, edges, strict=True)}


def from_json(document: object, name: str) -> Edges:
    """Reads what `to_json` made.

    Parameters
    ----------
    name
        Of the contract, for messages.

    Raises
    ------
    ModelError
        Anything but ascending numbers for each of the 17 features.
    """
    if not isinstance(document, Mapping) or list(document) != list(NAMES):
        raise ModelError(f"{name}: its scaling is not of flowml's features; restore it, or train again")
    try:
        return _padded([_checked(document[feature]) for feature in NAMES])
    except (TypeError, ValueError):
        raise ModelError(
            f"{name}: its scaling is not ascending numbers for each feature; restore it, or train again"
        ) from None


def _checked(values: Any) -> npt.NDArray[np.float32]:
    edges = np.array(values, np.float32)
    if edges.ndim != 1 or len(edges) == 0 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError
    return edges
