"""The forest: what it answers, through whichever engine, is what scikit-learn would have said."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier

from ml.classifier import most_probable
from ml.engine import OnnxForest
from ml.forest import ForestClassifier, hard_rows, is_forest
from tests.ml.samples import numbers

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
def test_answers_are_those_of_scikit_learn(forest: Any, rows: npt.NDArray[np.float64]) -> None:
    """Every label, NaN or not; probabilities within float32 or, asked exactly, to the last bit."""
    ours = ForestClassifier(forest, LABELS)

    classes, probabilities = ours.predict(rows)

    expected = forest.predict_proba(rows)
    assert ours.exact(rows).tobytes() == expected.tobytes()
    assert classes.tolist() == forest.predict(rows).tolist()
    assert np.abs(probabilities - expected.max(axis=1)).max() < 1e-6


@given(
    X=hnp.arrays(np.float64, (12, 17), elements=st.just(np.nan) | st.integers(-3, 3).map(float)),
    y=st.lists(st.integers(0, 2), min_size=12, max_size=12).filter(lambda y: len(set(y)) > 1),
    kind=st.sampled_from([RandomForestClassifier, ExtraTreesClassifier]),
    trees=st.integers(1, 8),
)
def test_any_forest(X: npt.NDArray[np.float64], y: list[int], kind: Any, trees: int) -> None:
    """Whatever forest grows, trees of a single leaf and many ties too, it is served quickly and rightly."""
    forest = kind(trees, random_state=0).fit(X, y)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = ForestClassifier(forest, LABELS[: len(set(y))])
    classes, _ = ours.predict(X)

    assert forest.classes_[classes].tolist() == forest.predict(X).tolist()


@pytest.mark.parametrize("size", [1, 16, 100, 256, 10_000])
def test_every_size_of_batch(size: int) -> None:
    """Whichever engine a batch goes to, on rows at the thresholds and beside them."""
    forest = FORESTS[0]
    rows = hard_rows([tree.tree_ for tree in forest.estimators_], size).astype(np.float64)

    classes, probabilities = ForestClassifier(forest, LABELS).predict(rows)

    assert classes.tolist() == forest.predict(rows).tolist()
    assert np.abs(probabilities - forest.predict_proba(rows).max(axis=1)).max() < 1e-6


@pytest.mark.parametrize("forest", FORESTS, ids=["forest", "never saw NaN"])
def test_rows_one_at_a_time(forest: Any) -> None:
    """Single rows have a way of their own through the runtime; a row leaves nothing for the next."""
    rows = hard_rows([tree.tree_ for tree in forest.estimators_], 500).astype(np.float64)
    ours = ForestClassifier(forest, LABELS)

    found = [ours.predict(row) for row in rows[:, None]]

    assert [classes.tolist() for classes, _ in found] == [[label] for label in forest.predict(rows)]
    probabilities = np.concatenate([given for _, given in found])
    assert np.abs(probabilities - forest.predict_proba(rows).max(axis=1)).max() < 1e-6
    assert found[0][0].dtype == np.dtype(np.intp)
    assert probabilities.dtype == np.dtype(np.float64)


def test_wrong_answers_to_single_rows_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers single rows is compared with scikit-learn too, not only what answers batches."""
    monkeypatch.setattr(OnnxForest, "first_two_of_one", lambda engine, row: (0, 7.0, 0.0))

    with pytest.warns(UserWarning, match="gets other answers from ONNX Runtime than"):
        ours = ForestClassifier(FORESTS[0], LABELS)

    assert ours.predict(X[:1])[0].tolist() == FORESTS[0].predict(X[:1]).tolist()


def test_columns_that_are_not_contiguous() -> None:
    """The order of the matrix in memory makes no difference."""
    ours = ForestClassifier(FORESTS[0], LABELS)

    assert ours.predict(np.asfortranarray(X))[0].tolist() == FORESTS[0].predict(X).tolist()
    assert ours.exact(np.asfortranarray(X)).tobytes() == FORESTS[0].predict_proba(X).tobytes()


def test_a_wrong_engine_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds rounded to the nearest float32, as converters do, are noticed and not used, aloud."""
    monkeypatch.setattr("ml.engine._rounded_down", lambda thresholds: thresholds.astype(np.float32))

    with pytest.warns(UserWarning, match="RandomForestClassifier gets other answers from ONNX Runtime than"):
        ours = ForestClassifier(FORESTS[0], LABELS)

    assert ours.predict(X)[1].tobytes() == FORESTS[0].predict_proba(X).max(axis=1).tobytes()


def test_a_runtime_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime says is passed on in one line, and the trees answer."""
    monkeypatch.setattr("ml.engine._OPSET", 99)

    with pytest.warns(UserWarning, match="cannot be run by ONNX Runtime") as told:
        ours = ForestClassifier(FORESTS[0], LABELS)

    assert "\n" not in str(told[0].message)
    assert ours.predict(X)[0].tolist() == FORESTS[0].predict(X).tolist()


def test_scikit_learn_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it ever averages its trees in another way, it is asked itself, aloud."""
    median = RandomForestClassifier.predict_proba

    def flattened(self: RandomForestClassifier, rows: npt.NDArray[np.float64]) -> Any:
        return np.sqrt(median(self, rows))

    monkeypatch.setattr(RandomForestClassifier, "predict_proba", flattened)

    with pytest.warns(
        UserWarning, match="do not add up to what its predict_proba says: scikit-learn answers"
    ):
        ours = ForestClassifier(FORESTS[0], LABELS)

    assert ours.predict(X)[1].tolist() == FORESTS[0].predict_proba(X.astype(np.float32)).max(axis=1).tolist()
    assert len(ours.predict(X[:0])[0]) == 0


def test_a_forest_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not handed over, which is said; its trees answer."""
    monkeypatch.setattr("ml.forest._MOST_NODES", 10)

    with pytest.warns(
        UserWarning, match=r"has \d+ nodes, too many to hand to ONNX Runtime: it is asked tree by"
    ):
        ours = ForestClassifier(FORESTS[0], LABELS)

    assert ours.predict(X)[0].tolist() == FORESTS[0].predict(X).tolist()


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """ONNX Runtime, which since 1.29 tells its maker that it is used, keeps quiet: no file, no connection."""
    code = (
        "import os, ml.engine\n"
        "print([os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if int(fd) > 2"
        " and os.path.exists(f'/proc/self/fd/{fd}')])\n"
    )
    quiet = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    quiet |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    quiet.pop("CI", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=quiet)

    assert "socket" not in done.stdout
    assert "onnxruntime" not in done.stdout
    assert list(tmp_path.iterdir()) == []


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
