"""The seam between the pipeline and whatever classifies: features in, class and probability out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["Answers", "Classifier", "Sequential", "most_probable", "one_line"]

Answers = tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]
"""For each row the index of its class in `Classifier.labels`, and the probability of that class."""


class Classifier(Protocol):
    """Anything that can say which device a connection is of."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each class."""

    def predict(self, X: npt.NDArray[np.float64]) -> Answers:
        """Classifies rows of features.

        Parameters
        ----------
        X
            Shape (n_rows, 17), float64, columns in the order of `features.NAMES`; NaN where undefined.
            No rows are fine.

        Returns
        -------
        Class indices, shape (n_rows,), intp; and their probabilities, shape (n_rows,), float64.
        """


@runtime_checkable
class Sequential(Classifier, Protocol):
    """A classifier that also looks at the connections of the same device before.

    Asked by `predict` it answers for each row as if it were the first of its device.
    """

    def predict_in_turn(self, X: npt.NDArray[np.float64], senders: Sequence[Hashable]) -> Answers:
        """Classifies rows as the next ones of their devices, and remembers them.

        Parameters
        ----------
        X
            As in `predict`, in order of time.
        senders
            For each row something that stands for its device, as far as that was observed: its source MAC,
            and where it was seen.
        """

    def forget(self) -> None:
        """From here on every row is the first of its device, until there are others."""


def most_probable(probabilities: npt.NDArray[np.float64]) -> Answers:
    """The class of the highest probability; in a tie the first of them, as in scikit-learn's `predict`.

    Parameters
    ----------
    probabilities
        Shape (n_rows, n_classes).
    """
    best = np.argmax(probabilities, axis=1)
    return best, probabilities[np.arange(len(best)), best].astype(np.float64, copy=False)


def one_line(error: BaseException) -> str:
    """What went wrong, cut to one line of a message."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."
