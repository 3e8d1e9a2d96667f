"""The default estimator: a random forest."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from ml.classifier import Answers, most_probable
from ml.dataset import Dataset

__all__ = ["ForestClassifier", "is_forest", "train"]


def train(dataset: Dataset, trees: int, seed: int, jobs: int | None) -> RandomForestClassifier:
    """Fits a forest on all rows; its classes are the class ids of the data set.

    The forest depends on the data, `trees` and `seed` alone.

    Parameters
    ----------
    dataset
        NaN is passed on to the trees, which learn at each split which way it goes.
    trees
        How many.
    seed
        Of the rows and columns that each tree sees.
    jobs
        How many trees are fitted at a time; None: as many as there are CPUs.
    """
    forest = RandomForestClassifier(
        n_estimators=trees, random_state=seed, n_jobs=-1 if jobs is None else jobs
    )
    with warnings.catch_warnings():
        # Many classes of few rows each look to scikit-learn like numbers to be estimated.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        forest.fit(dataset.X, dataset.y)
    # How many CPUs it was trained on is nothing that the model file should carry to another machine.
    return forest.set_params(n_jobs=1)


def is_forest(estimator: Any) -> bool:
    """Whether `ForestClassifier` gives the answers of this estimator, for all rows that it takes."""
    # A subclass may define another predict_proba; several outputs have another shape.
    return type(estimator) in (RandomForestClassifier, ExtraTreesClassifier) and estimator.n_outputs_ == 1


class ForestClassifier:
    """A forest without the wrapping that costs scikit-learn 11 ms a call.

    The trees are asked directly and summed in order, so that probabilities are those of `predict_proba`
    with one job, to the last bit.
    """

    def __init__(self, forest: Any, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._trees = [tree.tree_ for tree in forest.estimators_]

    def probabilities(self, X: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of every class, shape (n_rows, n_classes), for rows as in `Classifier.predict`."""
        rows = X.astype(np.float32)  # what the trees were grown on: thresholds are between float32 values
        total = np.zeros((len(X), len(self.labels)))
        for tree in self._trees:
            total += tree.predict(rows)
        total /= len(self._trees)
        return total

    def predict(self, X: npt.NDArray[np.float64]) -> Answers:
        """See `Classifier.predict`."""
        return most_probable(self.probabilities(X))
