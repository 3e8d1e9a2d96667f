"""A fitted scikit-learn estimator as a `Classifier`, once it has shown that it can be one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.errors import ModelError
from collector.features import NAMES, columns
from ml.classifier import Answers, Classifier, most_probable, one_line
from ml.forest import ForestClassifier, is_forest
from ml.labels import decode

__all__ = ["ColumnsClassifier", "EstimatorClassifier", "classifier_of"]


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


class ColumnsClassifier:
    """A classifier of some of the features, which picks their columns out of the matrix of all.

    Parameters
    ----------
    classifier
        Of the features `names`, in their order.
    """

    def __init__(self, classifier: Classifier, names: Sequence[str]) -> None:
        self.labels = classifier.labels
        self._classifier = classifier
        self._columns = columns(names)

    def predict(self, X: npt.NDArray[np.float64]) -> Answers:
        """See `Classifier.predict`."""
        return self._classifier.predict(X.take(self._columns, axis=1))


def classifier_of(
    estimator: Any,
    name: str,
    labels: tuple[str, ...] | None,
    labels_name: str,
    features: tuple[str, ...] = NAMES,
) -> Classifier:
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
    features
        Those that it was fitted on, in its order. Whatever they are, what comes back is asked with all.

    Raises
    ------
    ModelError
        No classifier with probabilities, other inputs than these features, no answer for an undefined
        feature, or fewer labels than classes.
    """
    for attribute in ("predict_proba", "classes_", "n_features_in_"):
        if not hasattr(estimator, attribute):
            raise ModelError(
                f"{name} holds a {type(estimator).__name__} without {attribute}; "
                "give a fitted scikit-learn classifier that knows probabilities"
            )
    if estimator.n_features_in_ != len(features):
        whose = "flowml has" if features == NAMES else "its contract names"
        raise ModelError(
            f"{name} takes {estimator.n_features_in_} features, but {whose} {len(features)}; "
            "train it on those"
        )
    fitted_on = getattr(estimator, "feature_names_in_", None)
    if fitted_on is not None and tuple(fitted_on) != features:
        whose = "flowml's" if features == NAMES else "those of its contract"
        raise ModelError(
            f"{name} was fitted on the columns {', '.join(map(str, fitted_on))}; "
            f"fit it on {whose}, in this order: {', '.join(features)}"
        )
    decoded = decode(estimator.classes_, name, labels, labels_name)
    _try_out(estimator, name, decoded, len(features))
    # Only now: the trees themselves would give some answer even where the forest refuses NaN.
    classifier: Classifier = (ForestClassifier if is_forest(estimator) else EstimatorClassifier)(
        estimator, decoded
    )
    return classifier if features == NAMES else ColumnsClassifier(classifier, features)


def _try_out(estimator: Any, name: str, labels: tuple[str, ...], n_features: int) -> None:
    """One row without and one with undefined features: better now than at the first connection."""
    classifier = EstimatorClassifier(estimator, labels)
    for value, what in ((0.0, "a row"), (np.nan, "a row with undefined features (NaN)")):
        try:
            classifier.predict(np.full((1, n_features), value))
        except Exception as error:  # an estimator can fail in any way
            raise ModelError(
                f"{name} cannot classify {what} ({one_line(error)}); "
                "use an estimator that can, or put an imputer before it"
            ) from error
