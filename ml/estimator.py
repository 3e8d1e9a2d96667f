"""A fitted scikit-learn estimator as a `Classifier`, once it has shown that it can be one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.errors import ModelError
from collector.features import NAMES
from ml.classifier import Answers, Classifier, most_probable, one_line
from ml.forest import ForestClassifier, is_forest
from ml.labels import decode

__all__ = ["EstimatorClassifier", "classifier_of"]


class EstimatorClassifier:
    """Any scikit-learn estimator with `predict_proba`."""

    def __init__(self, estimator: Any, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._estimator = estimator

    def predict(self, X: npt.NDArray[np.float64]) -> Answers:
        """See `Classifier.predict`."""
        if len(X) == 0:  # scikit-learn refuses an empty matrix
            return most_probable(np.empty((0, len(self.labels))))
        with warnings.catch_warnings():
            # An estimator fitted on a data frame complains of each matrix that its columns have no names.
            warnings.simplefilter("ignore")
            probabilities = self._estimator.predict_proba(X)
        return most_probable(probabilities)


def classifier_of(estimator: Any, name: str, labels: tuple[str, ...] | None, labels_name: str) -> Classifier:
    """Checks that an estimator can classify flowml's rows, and gives its classes their labels.

    Parameters
    ----------
    estimator
        Whatever was in the model file.
    name
        Of the model file, for messages.
    labels
        Indexed by class id; None: `unknown_<id>`. Classes that are text are their own labels.
    labels_name
        Of the file of labels, for messages.

    Raises
    ------
    ModelError
        No classifier with probabilities, other inputs than the 17 features, no answer for an undefined
        feature, or fewer labels than classes.
    """
    for attribute in ("predict_proba", "classes_", "n_features_in_"):
        if not hasattr(estimator, attribute):
            raise ModelError(
                f"{name} holds a {type(estimator).__name__} without {attribute}; "
                "give a fitted scikit-learn classifier that knows probabilities"
            )
    if estimator.n_features_in_ != len(NAMES):
        raise ModelError(
            f"{name} takes {estimator.n_features_in_} features, but flowml has {len(NAMES)}; "
            "train it on those"
        )
    columns = getattr(estimator, "feature_names_in_", None)
    if columns is not None and tuple(columns) != NAMES:
        raise ModelError(
            f"{name} was fitted on the columns {', '.join(map(str, columns))}; "
            f"fit it on flowml's, in this order: {', '.join(NAMES)}"
        )
    decoded = decode(estimator.classes_, name, labels, labels_name)
    _try_out(estimator, name, decoded)
    # Only now: the trees themselves would give some answer even where the forest refuses NaN.
    if is_forest(estimator):
        return ForestClassifier(estimator, decoded)
    return EstimatorClassifier(estimator, decoded)


def _try_out(estimator: Any, name: str, labels: tuple[str, ...]) -> None:
    """One row without and one with undefined features: better now than at the first connection."""
    classifier = EstimatorClassifier(estimator, labels)
    for value, what in ((0.0, "a row"), (np.nan, "a row with undefined features (NaN)")):
        try:
            classifier.predict(np.full((1, len(NAMES)), value))
        except Exception as error:  # an estimator can fail in any way
            raise ModelError(
                f"{name} cannot classify {what} ({one_line(error)}); "
                "use an estimator that can, or put an imputer before it"
            ) from error
