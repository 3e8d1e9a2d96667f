"""Random forests and extra trees as a `Classifier`: scikit-learn's answers without what its calls cost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from ml.classifier import Answers, most_probable, one_line
from ml.engine import OnnxForest

__all__ = ["ForestClassifier", "hard_rows", "is_forest"]

Probabilities = npt.NDArray[np.float64]

_LARGE = 500_000_000
"""Rows times nodes, from which on it is faster to ask tree after tree: a tree fits in the cache, and a forest
does not."""

_MOST_NODES = 2_000_000
"""Beyond that handing them over takes seconds, and gigabytes."""

_CHECKED_ROWS = 256


def is_forest(estimator: Any) -> bool:
    """Whether `ForestClassifier` gives the answers of this estimator, for all rows that it takes."""
    # A subclass may define another predict_proba; several outputs have another shape.
    return type(estimator) in (RandomForestClassifier, ExtraTreesClassifier) and estimator.n_outputs_ == 1


class ForestClassifier:
    """A forest that answers as scikit-learn's `predict` does, label for label.

    Small batches go to ONNX Runtime, which adds in float32. Where that leaves open which of two classes is
    ahead, and for large batches, the trees are asked directly and added up in scikit-learn's order, which
    gives its probabilities to the last bit.

    What was built is compared with scikit-learn once, on rows that are hard to get right. If ONNX Runtime
    disagrees it is not used; if the trees do, scikit-learn itself answers. Either is a `UserWarning`.
    """

    def __init__(self, forest: Any, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._forest = forest
        self._trees = [tree.tree_ for tree in forest.estimators_]
        self._nodes = sum(tree.node_count for tree in self._trees)
        self._large = _LARGE // self._nodes
        self._fast = self._onnx()
        self._check()

    def predict(self, X: npt.NDArray[np.float64]) -> Answers:
        """See `Classifier.predict`. Probabilities are within float32 of scikit-learn's."""
        if self._fast is not None and len(X) == 1:
            return self._quick_one(self._fast, X)
        # What the trees were grown on: a threshold lies between two float32 values.
        rows = np.ascontiguousarray(X, dtype=np.float32)
        if self._fast is None or not 0 < len(rows) < self._large:
            return most_probable(self._exact(rows))
        return self._quick(self._fast, rows)

    def exact(self, X: npt.NDArray[np.float64]) -> Probabilities:
        """Of every class, shape (n_rows, n_classes): those of `predict_proba` with one job, bit for bit."""
        return self._exact(np.ascontiguousarray(X, dtype=np.float32))

    def _quick(self, engine: OnnxForest, rows: npt.NDArray[np.float32]) -> Answers:
        classes, sums = engine.first_two(rows)
        best, ahead = classes[:, 0], sums[:, 0].astype(np.float64) / len(self._trees)
        lead = sums[:, 0] - sums[:, 1]
        undecided = self._undecided(engine)
        if lead.min() <= undecided:
            close = lead <= undecided
            best[close], ahead[close] = most_probable(self._exact(rows[close]))
        return best, ahead

    def _quick_one(self, engine: OnnxForest, X: npt.NDArray[np.float64]) -> Answers:
        """As `_quick`, of one row: there, what numpy takes for a call is a good part of the time."""
        best, ahead, behind = engine.first_two_of_one(X)
        if ahead - behind <= self._undecided(engine):
            return most_probable(self._exact(X.astype(np.float32)))
        return np.array([best]), np.array([ahead / len(self._trees)])

    def _undecided(self, engine: OnnxForest) -> float:
        """The lead of one class over another, in trees, up to which rounding may have put it there."""
        return 2 * engine.error * len(self._trees)

    def _exact(self, rows: npt.NDArray[np.float32]) -> Probabilities:
        if not self._trees:
            return self._by_scikit_learn(rows)
        total = np.zeros((len(rows), len(self.labels)))
        for tree in self._trees:
            total += tree.predict(rows)
        total /= len(self._trees)
        return total

    def _by_scikit_learn(self, rows: npt.NDArray[np.float32]) -> Probabilities:
        if len(rows) == 0:  # which it refuses
            return np.empty((0, len(self.labels)))
        probabilities: Probabilities = self._forest.predict_proba(rows)
        return probabilities

    def _onnx(self) -> OnnxForest | None:
        if len(self.labels) < 2:
            return None  # there is nothing to find out
        if self._nodes > _MOST_NODES:
            self._say(f"has {self._nodes} nodes, too many to hand to ONNX Runtime")
            return None
        try:
            return OnnxForest(self._trees, len(self.labels))
        except Exception as error:  # the runtime can refuse in any way
            self._say(f"cannot be run by ONNX Runtime ({one_line(error)})")
            return None

    def _say(self, what: str) -> None:
        warnings.warn(
            f"this {type(self._forest).__name__} {what}: it is asked tree by tree, "
            "which is slower for few connections at a time",
            stacklevel=2,
        )

    def _check(self) -> None:
        rows = hard_rows(self._trees, _CHECKED_ROWS)
        expected = self._by_scikit_learn(rows)
        if not np.allclose(self._exact(rows), expected, rtol=0, atol=1e-12):
            self._fast, self._trees = None, []
            warnings.warn(
                f"the trees of this {type(self._forest).__name__} do not add up to what its predict_proba "
                "says: scikit-learn answers, which is slow for few connections at a time",
                stacklevel=2,
            )
        elif self._fast is not None:
            far = np.abs(self._fast.probabilities(rows) - expected).max() > self._fast.error
            classes, _ = self._quick(self._fast, rows)
            singly = [self._quick_one(self._fast, row)[0][0] for row in rows[:, None].astype(np.float64)]
            if far or any((given != np.argmax(expected, axis=1)).any() for given in (classes, singly)):
                self._fast = None
                self._say("gets other answers from ONNX Runtime than from scikit-learn")


def hard_rows(trees: list[Any], n_rows: int) -> npt.NDArray[np.float32]:
    """Rows that are hard to get right, shape (n_rows, n_features).

    Their values are thresholds of the trees (`tree_`) and the float32 values beside them, a tenth NaN. The
    first row is NaN alone.
    """
    random = np.random.default_rng(0)
    n_features = trees[0].n_features
    rows = np.zeros((n_rows, n_features), np.float32)
    feature = np.concatenate([tree.feature for tree in trees])
    threshold = np.concatenate([tree.threshold for tree in trees])
    for i in range(n_features):
        known = threshold[(feature == i) & np.isfinite(threshold)].astype(np.float32)
        if len(known):
            rows[:, i] = random.choice(known, n_rows)
    side = random.integers(-1, 2, rows.shape)
    beside = np.nextafter(rows, np.where(side < 0, -np.inf, np.inf).astype(np.float32))
    rows = np.where(side == 0, rows, beside)
    rows[np.isinf(rows) | (random.random(rows.shape) < 0.1)] = np.nan
    rows[0] = np.nan
    return rows
