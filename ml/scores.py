"""How good answers are, and how good the dullest answer would have been."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, f1_score, recall_score

__all__ = ["majority_accuracy", "scores"]

Classes = npt.NDArray[np.intp]


def scores(truth: Classes, answers: Classes) -> dict[str, float | None]:
    """Accuracy, balanced accuracy (mean recall of the classes) and macro F1 (mean F1 of the classes).

    The means are over the classes that occur in `truth`. Each is between 0 and 1; None without rows.

    Parameters
    ----------
    truth, answers
        Shape (n_rows,), class ids.
    """
    if len(truth) == 0:
        return {"accuracy": None, "balanced_accuracy": None, "macro_f1": None}
    over: dict[str, Any] = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(accuracy_score(truth, answers)),
        "balanced_accuracy": float(recall_score(truth, answers, **over)),
        "macro_f1": float(f1_score(truth, answers, **over)),
    }


def majority_accuracy(trained: Classes, truth: Classes) -> float | None:
    """The accuracy of always answering the commonest class of the training rows; None without rows."""
    if len(truth) == 0:
        return None
    return float(np.mean(truth == np.argmax(np.bincount(trained))))
