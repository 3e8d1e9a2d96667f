"""What can be trained: that it learns, that it can be repeated, and that it takes what is undefined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from ml.dataset import Dataset
from ml.estimator import classifier_of
from ml.estimators import ESTIMATORS, GROWN, fit
from ml.model import open_model
from ml.train import train
from tests.ml.samples import MACS, dataset, numbers, row, write

X, Y = numbers(0, 300), np.arange(300) % 3


def learnable(rows: Any = X, y: Any = Y) -> Dataset:
    data = dataset(list(y))
    return Dataset(rows, data.y, data.classes, data.captures, data.start, (), "")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nan_is_a_signal(name: str) -> None:
    """Where only the undefined features tell the classes apart, each of them tells them apart."""
    rows = np.ones((40, 17))
    rows[:, 14:] = np.arange(40)[:, None] % 20
    rows[20:, 14:] = np.nan
    data = learnable(rows, [0] * 20 + [1] * 20)

    classifier = classifier_of(fit(data, name, trees=20), "m", data.classes, "l")
    classes, probabilities = classifier.predict(rows)

    assert classes.tolist() == data.y.tolist()
    assert probabilities.min() > 0.5


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_model_of_each_is_written_and_served(tmp_path: Path, name: str) -> None:
    """What `train` writes with each of them loads without a warning and answers."""
    rows = [row(MACS[i % 2], i % 7 + 100 * (i % 2), capture=i // 10) for i in range(100)]
    data = write(tmp_path / "train.jsonl", rows)
    said: list[str] = []

    results = train([data], tmp_path / "m", estimator=name, say=said.append)

    files = open_model(tmp_path / "m")
    classifier = files.load()
    assert files.warnings == []
    assert results["accuracy"] == 1.0
    assert [classifier.labels[i] for i in classifier.predict(np.array([[3.0] * 17, [103.0] * 17]))[0]] == [
        MACS[0],
        MACS[1],
    ]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_depends_on_the_seed_alone(name: str) -> None:
    """The same seed gives the same estimator, whatever the number of jobs."""
    one, two = (fit(learnable(), name, trees=5, seed=3, jobs=jobs) for jobs in (1, 2))

    assert one.predict_proba(X).tobytes() == two.predict_proba(X).tobytes()
    assert repr(one.get_params()) == repr(two.get_params())


@pytest.mark.parametrize("name", GROWN)
def test_trees(name: str) -> None:
    """There are as many as were asked for."""
    estimator = fit(learnable(), name, trees=43)

    assert len(estimator.estimators_ if name != "boosted" else estimator._predictors) == 43


@pytest.mark.parametrize(
    ("name", "kind"), [("forest", RandomForestClassifier), ("extra-trees", ExtraTreesClassifier)]
)
def test_growing_by_steps_changes_nothing(name: str, kind: Any) -> None:
    """A forest grown some trees at a time is the one that scikit-learn grows at once."""
    stepwise = fit(learnable(), name, trees=43, seed=5)

    at_once = kind(43, random_state=5, n_jobs=1).fit(X, Y)
    assert stepwise.predict_proba(X).tobytes() == at_once.predict_proba(X).tobytes()
    assert stepwise.get_params() == at_once.get_params()


def test_another_seed_gives_another_forest() -> None:
    """The seed decides which rows and columns each tree sees."""
    one, other = (fit(learnable(), trees=5, seed=seed) for seed in (3, 4))

    assert one.predict_proba(X).tobytes() != other.predict_proba(X).tobytes()
