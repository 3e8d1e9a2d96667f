"""The forest: what is asked of the trees directly is what scikit-learn would have said."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier

from ml.classifier import most_probable
from ml.dataset import Dataset
from ml.forest import ForestClassifier, is_forest, train
from tests.ml.samples import dataset, numbers

LABELS = ("a", "b", "c")
X, Y = numbers(0, 300), np.arange(300) % 3
FORESTS: list[Any] = [
    RandomForestClassifier(7, random_state=0).fit(X, Y),
    RandomForestClassifier(7, random_state=0).fit(np.nan_to_num(X), Y),
]
# Thresholds are where a row that is not cast to float32, as scikit-learn does, would go astray.
THRESHOLDS = [t for t in FORESTS[0].estimators_[0].tree_.threshold[:30].tolist() if np.isfinite(t)]
CELLS = st.just(np.nan) | st.sampled_from(THRESHOLDS) | st.floats(width=32, allow_infinity=False)


@pytest.mark.parametrize("forest", FORESTS, ids=["forest", "never saw NaN"])
@given(rows=hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(17)), elements=CELLS))
def test_bit_equal(forest: Any, rows: npt.NDArray[np.float64]) -> None:
    """Probabilities and answers are scikit-learn's, to the last bit, NaN or not, one row or several."""
    ours = ForestClassifier(forest, LABELS)

    classes, probabilities = ours.predict(rows)

    expected = forest.predict_proba(rows)
    assert ours.probabilities(rows).tobytes() == expected.tobytes()
    assert classes.tolist() == forest.predict(rows).tolist()
    assert probabilities.tobytes() == expected.max(axis=1).tobytes()


def test_training_rows() -> None:
    """On all its training rows, too, and on columns that are not contiguous."""
    ours = ForestClassifier(FORESTS[0], LABELS)

    assert ours.probabilities(np.asfortranarray(X)).tobytes() == FORESTS[0].predict_proba(X).tobytes()


def test_extra_trees() -> None:
    """Extra trees, which not every scikit-learn lets have NaN, are a forest too."""
    rows = np.nan_to_num(X)
    forest = ExtraTreesClassifier(7, random_state=0).fit(rows, Y)

    assert is_forest(forest)
    assert (
        ForestClassifier(forest, LABELS).probabilities(rows).tobytes() == forest.predict_proba(rows).tobytes()
    )


def test_no_rows() -> None:
    """No rows give no answers, of the right types."""
    classes, probabilities = ForestClassifier(FORESTS[0], LABELS).predict(np.empty((0, 17)))

    assert (classes.shape, classes.dtype) == ((0,), np.dtype(np.intp))
    assert (probabilities.shape, probabilities.dtype) == ((0,), np.dtype(np.float64))


def test_tie() -> None:
    """In a tie the first class is the answer."""
    classes, probabilities = most_probable(np.array([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0]]))

    assert classes.tolist() == [1, 0]
    assert probabilities.tolist() == [0.4, 0.5]


def test_only_what_is_known_is_taken_for_a_forest() -> None:
    """Subclasses, several outputs and other ensembles answer for themselves."""

    class Other(RandomForestClassifier):  # type: ignore[misc]
        pass

    several = RandomForestClassifier(2).fit(np.nan_to_num(X), np.column_stack([Y, Y]))

    assert is_forest(FORESTS[0])
    assert not is_forest(Other(2).fit(X, Y))
    assert not is_forest(several)
    assert not is_forest(GradientBoostingClassifier(n_estimators=1).fit(np.nan_to_num(X), Y))


def learnable() -> Dataset:
    data = dataset(Y.tolist())
    return Dataset(X, data.y, data.classes, data.captures, data.start, (), "")


def test_train_depends_on_the_seed_alone() -> None:
    """The same seed gives the same forest, whatever the number of jobs; another seed gives another."""
    one, two, other = (train(learnable(), 5, seed, jobs) for seed, jobs in ((3, 1), (3, 2), (4, None)))

    assert one.predict_proba(X).tobytes() == two.predict_proba(X).tobytes()
    assert one.predict_proba(X).tobytes() != other.predict_proba(X).tobytes()
    assert one.get_params() == two.get_params()
    assert (len(one.estimators_), one.n_jobs) == (5, 1)


def test_nan_is_a_signal() -> None:
    """Where only the undefined features tell the classes apart, the forest tells them apart."""
    rows = np.ones((40, 17))
    rows[:, 14:] = np.arange(40)[:, None] % 20
    rows[20:, 14:] = np.nan
    data = dataset([0] * 20 + [1] * 20)
    data = Dataset(rows, data.y, data.classes, data.captures, data.start, (), "")

    classes, probabilities = ForestClassifier(train(data, 5, 0, 1), data.classes).predict(rows)

    assert classes.tolist() == data.y.tolist()
    assert probabilities.tolist() == [1.0] * 40
