"""Models on disk: saved whole, loaded in two halves, and refused in one line."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.impute import SimpleImputer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from collector.errors import ModelError, OutputError
from collector.features import NAMES
from collector.records import Needs
from ml.contract import flowml_features
from ml.estimators import ESTIMATORS
from ml.forest import ForestClassifier
from ml.model import ModelFiles, contract_path, labels_path, open_model, save
from ml.train import train
from tests.ml.samples import MACS, TIMEOUTS, contract, numbers, write

X, Y = numbers(0, 60), np.arange(60) % 3
FOREST = RandomForestClassifier(5, random_state=0).fit(X, Y)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A forest with its labels and its contract."""
    path = tmp_path / "model.joblib"
    save(path, FOREST, MACS, contract())
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes an estimator without labels and contract."""

    def write(estimator: Any) -> Path:
        path = tmp_path / "bare.joblib"
        joblib.dump(estimator, path)
        return path

    return write


def refusal(action: Callable[[], object]) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(ModelError) as refused:
        action()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_round_trip(saved: Path) -> None:
    """What was saved is served: the same probabilities, NaN and all, the labels, and no warning."""
    files = open_model(saved)
    files.check(filter="tls", ip="4", timeouts=TIMEOUTS)
    classifier = files.load()

    classes, probabilities = classifier.predict(X)

    assert files.warnings == []
    assert classifier.labels == MACS
    assert classes.tolist() == FOREST.predict(X).tolist()
    assert np.abs(probabilities - FOREST.predict_proba(X).max(axis=1)).max() < 1e-6


def test_artifacts(saved: Path) -> None:
    """Beside the model stand its labels and its contract, which holds the model's SHA-256."""
    assert labels_path(saved) == saved.with_name("model.joblib.labels.json")
    assert contract_path(saved) == saved.with_name("model.joblib.meta.json")
    assert orjson.loads(labels_path(saved).read_bytes()) == list(MACS)
    assert open_model(saved).contract == replace(
        contract(), model_sha256=hashlib.sha256(saved.read_bytes()).hexdigest()
    )


def test_old_model_survives(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last of the new files cannot be written, the old model still loads and answers."""
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    other = RandomForestClassifier(2, random_state=1).fit(X, Y % 2)

    with pytest.raises(OutputError, match=r"^cannot write .*/model\.joblib: No space left on device; "):
        save(saved, other, MACS[:2], contract())

    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before
    assert open_model(saved).load().labels == MACS


@pytest.mark.parametrize("renamed", [1, 2])
def test_stop_between_renames(saved: Path, monkeypatch: pytest.MonkeyPatch, renamed: int) -> None:
    """If the machine stops before the last rename, the mixture that it leaves is refused and not served."""
    rename = Path.replace
    done: list[Path] = []

    def replace_some(self: Path, target: Path) -> Path:
        if len(done) == renamed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace_some)
    with pytest.raises(OutputError):
        save(saved, RandomForestClassifier(2).fit(X, Y), MACS[::-1], contract())

    assert refusal(open_model(saved).load) == (
        "model.joblib changed after training: its SHA-256 is not the one in model.joblib.meta.json; "
        "restore both files, or train the model again"
    )


def test_changed_model_is_not_unpickled(saved: Path, tmp_path: Path) -> None:
    """A model that was exchanged is refused before its pickle, which is a program, runs."""
    trace = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    joblib.dump(Hostile(), saved)

    assert "changed after training" in refusal(open_model(saved).load)
    assert not trace.exists()


def test_opening_does_not_unpickle(bare: Callable[[Any], Path], tmp_path: Path) -> None:
    """The first half runs nothing of the model, contract or not."""
    trace = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    files = open_model(bare(Hostile()))
    files.check(filter="tls", ip="4", timeouts=TIMEOUTS)
    files.modules()

    assert not trace.exists()


def test_opener(saved: Path, tmp_path: Path) -> None:
    """Every file is opened by the opener that was given, and none twice."""
    other = tmp_path / "names.json"
    other.write_bytes(b'["a", "b", "c"]')
    opened: list[Path] = []

    def opener(path: Path) -> BinaryIO:
        opened.append(path)
        return path.open("rb")

    files = open_model(saved, other, opener)
    saved.unlink()

    assert files.load().labels == ("a", "b", "c")
    assert opened == [saved, contract_path(saved), other]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_unreadable_file(saved: Path, which: int) -> None:
    """A file that is there but may not be read is never taken for one that is not there."""
    paths = (saved, contract_path(saved), labels_path(saved))

    def opener(path: Path) -> BinaryIO:
        if path == paths[which]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return io.BytesIO(path.read_bytes())

    assert refusal(lambda: open_model(saved, None, opener)) == (
        f"cannot read {paths[which]}: Permission denied; make it readable, or name another"
    )


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    """A model, or a file of labels, that was named has to be there."""
    assert refusal(lambda: open_model(tmp_path / "no.joblib")) == (
        f"there is no model {tmp_path / 'no.joblib'}; name one, or make it with `flowml train`"
    )
    assert refusal(lambda: open_model(saved, tmp_path / "no.json")) == (
        f"there is no file of labels {tmp_path / 'no.json'}; name one"
    )


def test_bare_estimator(bare: Callable[[Any], Path]) -> None:
    """An estimator without contract and labels is served, with a warning of each."""
    files = open_model(bare(FOREST))
    files.check(filter="tcp", ip="4", timeouts=TIMEOUTS)

    classifier = files.load()

    assert classifier.labels == ("unknown_0", "unknown_1", "unknown_2")
    assert files.warnings == [
        "bare.joblib has no contract (bare.joblib.meta.json): that it was trained on flowml's features, "
        "in flowml's order, cannot be checked",
        "bare.joblib has no labels (bare.joblib.labels.json): class ids are shown as unknown_<id>",
    ]


def test_text_classes(bare: Callable[[Any], Path]) -> None:
    """An estimator fitted on text needs no labels; a file of labels is not used, which is said."""
    path = bare(RandomForestClassifier(3).fit(X, np.array(MACS)[Y]))
    labels_path(path).write_bytes(b'["a", "b", "c"]')
    files = open_model(path)

    assert files.load().labels == MACS
    assert files.warnings[-1] == (
        "bare.joblib.labels.json is not used: the classes of bare.joblib are text themselves"
    )


@pytest.mark.parametrize(
    "estimator",
    [DecisionTreeClassifier(max_depth=3), make_pipeline(SimpleImputer(), KNeighborsClassifier(3))],
    ids=["tree", "pipeline"],
)
def test_other_estimators(bare: Callable[[Any], Path], estimator: Any) -> None:
    """Any estimator that takes NaN answers as it would itself; no rows are fine."""
    estimator.fit(X, Y)
    classifier = open_model(bare(estimator)).load()

    classes, probabilities = classifier.predict(X)

    assert not isinstance(classifier, ForestClassifier)
    assert classes.tolist() == estimator.predict(X).tolist()
    assert probabilities.tolist() == estimator.predict_proba(X).max(axis=1).tolist()
    assert [len(answer) for answer in classifier.predict(np.empty((0, 17)))] == [0, 0]


class Named(DecisionTreeClassifier):  # type: ignore[misc]
    """An estimator that was fitted on a data frame with these columns."""

    def with_columns(self, columns: npt.ArrayLike) -> Named:
        self.fit(X, Y)
        self.feature_names_in_ = np.array(columns, dtype=object)
        return self


def test_columns_in_order(bare: Callable[[Any], Path]) -> None:
    """An estimator that was fitted on a data frame of flowml's columns answers without complaint."""
    from collector.features import NAMES

    classifier = open_model(bare(Named(max_depth=3).with_columns(NAMES))).load()

    assert len(classifier.predict(X)[0]) == 60


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            {"a": "dictionary"},
            "bare.joblib holds a dict without predict_proba; "
            "give a fitted scikit-learn classifier that knows probabilities",
        ),
        (
            RandomForestClassifier(),
            "bare.joblib holds a RandomForestClassifier without classes_; "
            "give a fitted scikit-learn classifier that knows probabilities",
        ),
        (
            LinearSVC().fit(np.nan_to_num(X) > 1, Y),
            "bare.joblib holds a LinearSVC without predict_proba; "
            "give a fitted scikit-learn classifier that knows probabilities",
        ),
        (
            RandomForestClassifier(2).fit(X[:, :16], Y),
            "bare.joblib takes 16 features, but flowml has 17; train it on those",
        ),
        (
            RandomForestClassifier(2).fit(X, Y - 1),
            "bare.joblib has classes that are neither text nor ids from 0; train it on one of these",
        ),
    ],
)
def test_not_fit_to_serve(bare: Callable[[Any], Path], estimator: Any, message: str) -> None:
    """What is no classifier of 17 features with probabilities is refused, with the reason."""
    assert refusal(open_model(bare(estimator)).load) == message


def test_other_columns(bare: Callable[[Any], Path]) -> None:
    """An estimator that says that it was fitted on other columns is refused."""
    path = bare(Named().with_columns([f"x{i}" for i in range(17)]))

    assert refusal(open_model(path).load).startswith("bare.joblib was fitted on the columns x0, x1, ")


def test_no_answer_for_nan(bare: Callable[[Any], Path]) -> None:
    """An estimator that cannot take an undefined feature is refused before the first connection."""
    path = bare(KNeighborsClassifier().fit(np.nan_to_num(X), Y))

    message = refusal(open_model(path).load)

    assert message.startswith("bare.joblib cannot classify a row with undefined features (NaN) (ValueError: ")
    assert message.endswith("; use an estimator that can, or put an imputer before it")


def test_forest_that_refuses_nan(bare: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a forest that refuses it, although its trees, asked directly, would say something."""

    def predict_proba(self: RandomForestClassifier, rows: npt.NDArray[np.float64]) -> Any:
        if np.isnan(rows).any():
            raise ValueError("Input X contains NaN.")

        return np.full((len(rows), 3), 1 / 3)

    monkeypatch.setattr(RandomForestClassifier, "predict_proba", predict_proba)

    assert "undefined features" in refusal(open_model(bare(FOREST)).load)


@pytest.mark.parametrize("data", [b"", b"\x80", b"not a pickle", b"cno.such.module\nThing\n."])
def test_corrupt_model(tmp_path: Path, data: bytes) -> None:
    """Whatever goes wrong in a pickle is one line."""
    path = tmp_path / "bare.joblib"
    path.write_bytes(data)

    assert refusal(open_model(path).load).endswith("train the model again" + " here" * (b"no.such" in data))


def test_truncated_model(saved: Path) -> None:
    """A model cut short anywhere, without a contract that would tell, is one line."""
    data = saved.read_bytes()
    for size in range(1, len(data), 997):
        files = ModelFiles(saved, data[:size], None, MACS, "l.json")

        assert refusal(files.load).startswith("model.joblib ")


def test_missing_module(bare: Callable[[Any], Path]) -> None:
    """A pickle of something that is not installed, or not readable any more, says what to do."""
    path = bare(FOREST)
    path.write_bytes(b"cno.such.module\nThing\n.")

    assert refusal(open_model(path).load) == (
        "bare.joblib needs what cannot be imported (ModuleNotFoundError: No module named 'no'); "
        "install it, let the user that flowml runs as read it, or train the model again here"
    )


@pytest.mark.parametrize("labels", ['["a", "b"]', '["a", "b", "c", "d"]'])
def test_labels_of_another_length(saved: Path, labels: str) -> None:
    """Labels that are fewer or more than the classes of the contract are refused, with both numbers."""
    labels_path(saved).write_text(labels)

    assert refusal(lambda: open_model(saved)) == (
        f"model.joblib.labels.json has {len(orjson.loads(labels))} labels, but model.joblib was trained on "
        "3 classes; give the labels that it was trained with, in their order"
    )


def test_too_few_labels(bare: Callable[[Any], Path]) -> None:
    """Without a contract the model itself tells how many there have to be."""
    path = bare(FOREST)
    labels_path(path).write_bytes(b'["a", "b"]')

    assert refusal(open_model(path).load) == (
        "bare.joblib.labels.json has 2 labels, but bare.joblib has 3 classes with ids up to 2; "
        "give the labels that the model was trained with"
    )


def test_other_capture(saved: Path) -> None:
    """A capture unlike the training data is refused; `check` passes on what the contract says."""
    files = open_model(saved)

    assert refusal(lambda: files.check(filter="tcp", ip="4", timeouts=TIMEOUTS)) == (
        "model.joblib was trained on filter=tls, but filter=tcp is asked: "
        "pass --filter tls, or train on such data; or go on all the same with --force"
    )
    assert "60000" in refusal(
        lambda: files.check(filter="tls", ip="4", timeouts={**TIMEOUTS, "tcp_inactivity_timeout": 60_000})
    )


def test_unknown_capture(tmp_path: Path) -> None:
    """Training data of which it is not known how it was captured is a warning."""
    path = tmp_path / "model.joblib"
    save(path, FOREST, MACS, contract(filter=None))
    files = open_model(path)

    files.check(filter="tcp", ip="4", timeouts=TIMEOUTS)

    assert files.warnings == [
        "model.joblib does not say with which filter its training data was captured: "
        "answers are only good if it was with those of this capture"
    ]


def test_other_features(tmp_path: Path) -> None:
    """Features in another unit are refused by `check`, and by `load` where nobody checked."""
    path = tmp_path / "model.joblib"
    features = contract().features
    save(path, FOREST, MACS, contract(features=(("dur", "ms"), *features[1:])))
    files = open_model(path)

    expected = (
        "model.joblib was trained on other features: its dur is in 'ms', flowml's in 's'; "
        "train it again; or go on all the same with --force"
    )
    assert refusal(lambda: files.check(filter="tls", ip="4", timeouts=TIMEOUTS)) == expected
    assert refusal(files.load) == expected


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(20, random_state=0), HistGradientBoostingClassifier(max_iter=5)],
    ids=["forest", "boosted"],
)
@pytest.mark.parametrize("names", [("dur", "s_pkt_cnt", "ack_dat"), ("tcp_rtt", "d_load"), NAMES[::-1]])
def test_some_features(tmp_path: Path, estimator: Any, names: tuple[str, ...]) -> None:
    """A model is given the columns that its contract names, in that order: its answers are the estimator's,
    of many rows and of one."""
    path = tmp_path / "model.joblib"
    places = [NAMES.index(name) for name in names]
    fitted = estimator.fit(X[:, places], Y)
    save(path, fitted, MACS, contract(features=flowml_features(names)))
    files = open_model(path)
    files.check(filter="tls", ip="4", timeouts=TIMEOUTS)
    served = files.load()

    asked = numbers(9, 300)
    expected = fitted.predict_proba(asked[:, places])
    classes, probabilities = served.predict(asked)
    assert classes.tolist() == fitted.predict(asked[:, places]).tolist()
    np.testing.assert_allclose(probabilities, expected.max(axis=1), rtol=0, atol=1e-5)
    assert [served.predict(one[None])[0][0] for one in asked[:50]] == classes[:50].tolist()
    assert files.warnings == []
    assert files.features == names


def test_a_contract_of_fewer_features_than_the_model_takes(tmp_path: Path) -> None:
    """It is refused: which of them the model takes, nothing tells."""
    path = tmp_path / "model.joblib"
    save(path, FOREST, MACS, contract(features=flowml_features(("dur", "proto"))))

    assert refusal(open_model(path).load) == (
        "model.joblib takes 17 features, but its contract names 2; train it on those"
    )


def test_what_the_programs_keep(tmp_path: Path) -> None:
    """A model that looks at what they do not keep is refused, with the features; any other is not."""
    path = tmp_path / "model.joblib"
    names = ("dur", "s_load", "d_ttl_mean", "syn_ack")
    save(path, FOREST, MACS, contract(features=flowml_features(names)))
    files = open_model(path, force=True)

    files.check_kept(Needs.BYTES | Needs.TTL | Needs.HANDSHAKE)
    assert refusal(lambda: files.check_kept(Needs.BYTES | Needs.HELLO)) == (
        "model.joblib looks at d_ttl_mean, syn_ack, which the programs attached do not keep: "
        "start flowml again with it"
    )


def test_force(tmp_path: Path) -> None:
    """With force every difference is a warning, once, and the model answers."""
    path = tmp_path / "model.joblib"
    features = contract().features
    save(path, FOREST, MACS, contract(features=(("dur", "ms"), *features[1:]), nan="-1"))
    files = open_model(path, force=True)

    files.check(filter="tcp", ip="4", timeouts={**TIMEOUTS, "tcp_establish_timeout": 1})

    assert files.load().labels == MACS
    assert [warning.split(";")[0].split(":")[0] for warning in files.warnings] == [
        "model.joblib was trained on other features",
        "model.joblib was trained with NaN '-1', flowml serves NaN 'kept'",
        "model.joblib was trained on filter=tls, but filter=tcp is asked",
        "model.joblib was trained on tcp_establish_timeout=5000 ms, but tcp_establish_timeout=1 ms is asked",
    ]


def test_force_does_not_run_a_changed_model(saved: Path) -> None:
    """What was exchanged after training stays refused: that is no question of fit."""
    saved.write_bytes(saved.read_bytes() + b" ")

    assert "changed after training" in refusal(open_model(saved, force=True).load)


def test_force_does_not_change_the_width(tmp_path: Path) -> None:
    """Nor can a model be asked that takes what flowml does not have, and so is of another width."""
    path = tmp_path / "model.joblib"
    features = (*contract().features[:15], ("ack_time", "s"))
    save(path, RandomForestClassifier(2).fit(X[:, :16], Y), MACS, contract(features=features))

    assert refusal(open_model(path, force=True).load) == (
        "model.joblib takes 16 features, but flowml has 17; train it on those"
    )


def test_version_skew(tmp_path: Path) -> None:
    """A model of another scikit-learn is one warning of ours."""
    path = tmp_path / "model.joblib"
    save(path, FOREST, MACS, contract(versions={"scikit-learn": "0.9.9"}))
    files = open_model(path)

    files.load()

    assert files.warnings == [
        f"model.joblib was trained with scikit-learn 0.9.9, here is {sklearn.__version__}: "
        "its answers may differ; train it again to be sure"
    ]


def test_version_skew_without_contract(bare: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where only scikit-learn notices, which it does once for every tree; none of Python's leaks."""

    def load(file: BinaryIO) -> Any:
        for name in ("DecisionTreeClassifier", "DecisionTreeClassifier", "RandomForestClassifier"):
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=name, current_sklearn_version="1", original_sklearn_version="1.4.2"
                ),
                stacklevel=1,
            )
        warnings.warn("old\nhat", DeprecationWarning, stacklevel=1)
        return FOREST

    monkeypatch.setattr(joblib, "load", load)
    files = open_model(bare(FOREST))

    files.load()

    assert files.warnings[2:] == [
        "bare.joblib: old hat",
        f"bare.joblib was trained with scikit-learn 1.4.2, here is {sklearn.__version__}: "
        "its answers may differ; train it again to be sure",
    ]


def test_modules_are_of_a_fixed_list(saved: Path) -> None:
    """What is to be imported early is scikit-learn's, whatever the contract says."""
    files = open_model(saved)
    usual = replace(files, contract=None).modules()

    assert files.modules() == ["sklearn.ensemble"]
    for name in (
        "evil.Thing",
        "sklearn.conftest.Thing",
        "sklearn",
        "",
        "os.path",
        "sklearn.pipeline.Pipeline",
    ):
        assert replace(files, contract=contract(estimator=name)).modules() == usual


def test_modules_are_all_that_estimators_come_from(saved: Path) -> None:
    """Every package of scikit-learn that has a classifier, a regressor, a clusterer or a transformer."""
    from sklearn.utils import all_estimators

    kinds = ["classifier", "regressor", "cluster", "transformer"]
    packages = {estimator.__module__.split(".")[1] for _, estimator in all_estimators(type_filter=kinds)}

    assert {f"sklearn.{package}" for package in packages if package[0] != "_"} <= set(
        replace(open_model(saved), contract=None).modules()
    )


WITHOUT_IMPORTS = """
import importlib, sys
from pathlib import Path
import numpy as np
from collector.errors import ModelError
from ml.model import open_model

files = open_model(Path(sys.argv[1]))
for module in files.modules() if sys.argv[2] == "early" else []:
    importlib.import_module(module)

class Unreadable:
    def find_spec(self, name, path=None, target=None):
        raise ModuleNotFoundError(f"No module named {name!r}")  # as where a folder cannot be read

sys.meta_path.insert(0, Unreadable())
try:
    classifier = files.load()
    print(classifier.labels[classifier.predict(np.full((1, 17), np.nan))[0][0]])
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["bare", *ESTIMATORS])
def test_loads_without_reading_the_libraries(tmp_path: Path, bare: Callable[[Any], Path], kind: str) -> None:
    """Once `modules` are imported, loading and answering read no file of the libraries any more."""
    if kind == "bare":
        path = bare(make_pipeline(SimpleImputer(), KNeighborsClassifier()).fit(X, Y))
    else:
        path = tmp_path / "model.joblib"
        data = [
            {"s_mac": MACS[y], "fts": [None if np.isnan(v) else float(v) for v in x]}
            for x, y in zip(X, Y, strict=True)
        ]
        train([write(tmp_path / "t.jsonl", data)], path, estimator=kind, say=lambda line: None)

    def run(when: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", WITHOUT_IMPORTS, str(path), when]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    assert run("early") in (*MACS, "unknown_0", "unknown_1", "unknown_2")
    if kind == "bare":
        assert run("late").startswith("bare.joblib needs what cannot be imported (ModuleNotFoundError: ")
