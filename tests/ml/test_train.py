"""`flowml train`, whole: what it writes, what it says, and that it can be repeated."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sklearn.ensemble import RandomForestClassifier

from collector.errors import DatasetError, OutputError, UsageError
from collector.features import NAMES
from ml.model import contract_path, open_model
from ml.origin import origin_path
from ml.train import train
from tests.ml.samples import MACS, TIMEOUTS, row, write


def rows(n: int, **more: Any) -> list[dict[str, Any]]:
    """Two thirds of the first label; the sign tells the labels apart."""
    return [row(MACS[0], i) if i % 3 else row(MACS[1], -i - 100) for i in range(n)]


def silent(line: str) -> None:
    """Reports to nobody."""


def test_train(tmp_path: Path) -> None:
    """The model that is written answers; its contract tells where it is from and how good it is."""
    data = write(tmp_path / "train.jsonl", rows(60))
    origin_path(data).write_bytes(orjson.dumps({"filter": "tls", **TIMEOUTS}))
    path = tmp_path / "model.joblib"

    scores = train([data], path, group_by="row", trees=7, seed=3, say=silent)

    files = open_model(path)
    files.check(filter="tls", ip="4", timeouts=TIMEOUTS)
    classifier = files.load()
    classes, _ = classifier.predict(np.array([[50.0] * 17, [-50.0] * 17]))
    assert files.warnings == []
    assert [classifier.labels[i] for i in classes] == [MACS[0], MACS[1]]
    assert files.contract is not None
    assert files.contract.classes == {MACS[0]: 40, MACS[1]: 20}
    assert files.contract.data_sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert files.contract.estimator == "sklearn.ensemble._forest.RandomForestClassifier"
    assert (files.contract.parameters["n_estimators"], files.contract.parameters["random_state"]) == (7, 3)
    assert files.contract.scores == scores
    assert scores == {
        "split": "row",
        "n_train": 48,
        "n_test": 12,
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "macro_f1": 1.0,
        "majority_accuracy": pytest.approx(2 / 3),
        "calibration_error": pytest.approx(0, abs=0.1),
        "intervals": None,
        "training_accuracy": 1.0,
    }


def test_report(tmp_path: Path) -> None:
    """It says the classes, the bad rows, the split, and the scores beside that of the dullest answer."""
    bad = b'{"s_mac": "x"}'
    data = write(
        tmp_path / "train.jsonl", [*({**one, "capture": i // 10} for i, one in enumerate(rows(150))), bad]
    )
    lines: list[str] = []

    train([data], tmp_path / "model.joblib", trees=5, say=lines.append)

    assert lines == [
        "150 rows, 2 classes",
        "left out 1 of 151 rows: train.jsonl line 151: neither fts nor dur",
        "      100  66.7%  02:00:00:00:00:01",
        "       50  33.3%  02:00:00:00:00:02",
        "held out: 30 of 150 rows, by capture: whole captures",
        "30 rows of 3 captures",
        "accuracy 1.000 [1.000 1.000]; always answering 02:00:00:00:00:01 would have 0.667",
        "balanced accuracy 1.000 [1.000 1.000]",
        "macro F1 1.000 [1.000 1.000]",
        "in brackets: 95 % intervals, from a bootstrap over captures",
        "calibration error 0.000",
        "accuracy 1.000 on rows trained on",
        f"fitted on all 150 rows: {tmp_path / 'model.joblib'}, model.joblib.labels.json, "
        "model.joblib.meta.json",
    ]


def test_a_random_split_is_warned_of(tmp_path: Path) -> None:
    """It is only made when asked for, and said to flatter; there are no intervals without captures."""
    data = write(tmp_path / "train.jsonl", rows(60))
    lines: list[str] = []

    train([data], tmp_path / "model.joblib", trees=5, group_by="row", say=lines.append)

    assert lines[3] == (
        "warning: held out: 12 of 60 rows, by row: 20% of each class at random: "
        "like rows are on both sides, which flatters"
    )
    assert "no intervals: they are over captures, and the rows do not name two" in lines


def test_report_of_many_classes(tmp_path: Path) -> None:
    """Of many classes the commonest are shown; labels cannot forge a line."""
    labels = [f"device {i:02}" for i in range(40)]
    data = write(
        tmp_path / "train.jsonl",
        [row(label) for label in labels] + [row("evil\n9 rows"), row("evil\n9 rows")],
    )
    lines: list[str] = []

    train([data], tmp_path / "model.joblib", trees=2, group_by="row", say=lines.append)

    assert lines[1] == "        2   4.8%  'evil\\n9 rows'"
    assert lines[21] == "       21  50.0%  21 more classes"
    assert lines[23] == (
        "classes with too little data to hold any out, which are not in the score: "
        "40 (device 00, device 01, device 02, ...)"
    )
    assert len(lines) < 40
    assert not any("\n" in line for line in lines)


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    """Where every class has a single row there is a model and no score."""
    data = write(tmp_path / "train.jsonl", [row(mac, i) for i, mac in enumerate(MACS)])
    lines: list[str] = []

    scores = train([data], tmp_path / "model.joblib", trees=3, say=lines.append)

    assert (scores["n_train"], scores["n_test"], scores["accuracy"]) == (3, 0, None)
    assert "no score: there is nothing to hold out" in lines
    assert open_model(tmp_path / "model.joblib").load().labels == MACS


def test_undefined_features_are_kept(tmp_path: Path) -> None:
    """JSON null is NaN from the training data to the answer: where it is all that differs, it decides."""
    data = write(
        tmp_path / "train.jsonl", [row(MACS[i % 2], tcp_rtt=None if i % 2 else i) for i in range(40)]
    )

    scores = train([data], tmp_path / "model.joblib", trees=20, group_by="row", say=silent)

    classifier = open_model(tmp_path / "model.joblib").load()
    known, unknown = np.ones((2, 17))
    unknown[14] = np.nan
    assert scores["accuracy"] == 1.0
    assert classifier.predict(np.array([known, unknown]))[0].tolist() == [0, 1]


def test_whole_captures_are_held_out(tmp_path: Path) -> None:
    """Rows that a model could only know by having seen their capture are not known in the score."""
    noise = np.random.default_rng(0)
    lines = []
    for capture in range(40):
        fingerprint = noise.normal(size=17).tolist()
        label = MACS[int(noise.integers(2))]
        lines += [{"s_mac": label, "fts": fingerprint, "capture": f"{capture}.pcap"}] * 5
    named = write(tmp_path / "named.jsonl", lines)
    unnamed = write(tmp_path / "unnamed.jsonl", [{**line, "capture": None} for line in lines])

    honest = train([named], tmp_path / "model.joblib", trees=20, say=silent)
    flattered = train([unnamed], tmp_path / "model.joblib", trees=20, group_by="row", say=silent)

    assert (honest["split"], flattered["split"]) == ("capture", "row")
    assert flattered["accuracy"] == 1.0
    assert honest["accuracy"] < 0.8


def test_some_features(tmp_path: Path) -> None:
    """It is trained on the columns of these alone, in the order of the table, whatever order they are given
    in; the contract names them, and what is served are the answers of the estimator on them."""
    noise = np.random.default_rng(0)
    X = noise.normal(size=(80, 17))
    y = (X[:, 0] + X[:, 8] > 0).astype(int)
    lines = [{"s_mac": MACS[y[i]], "fts": X[i].tolist()} for i in range(80)]
    data, path = write(tmp_path / "train.jsonl", lines), tmp_path / "model.joblib"

    scores = train([data], path, features="s_pkt_cnt, dur", trees=9, seed=4, group_by="row", say=silent)

    files = open_model(path)
    assert files.contract is not None
    assert files.contract.features == (("dur", "s"), ("s_pkt_cnt", ""))
    assert scores["training_accuracy"] == 1.0
    own = RandomForestClassifier(9, random_state=4).fit(X[:, [0, 8]], y)
    asked = noise.normal(size=(200, 17))
    assert files.load().predict(asked)[0].tolist() == own.predict(asked[:, [0, 8]]).tolist()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("dur,s_pkt_count", "no feature 's_pkt_count': did you mean s_pkt_cnt?"),
        ("dur,xyz", f"no feature 'xyz': they are {', '.join(NAMES)}"),
        ("dur,", f"no feature '': they are {', '.join(NAMES)}"),
        ("dur,proto,dur", "the feature dur is named twice: name it once"),
    ],
)
def test_features_that_are_not_there(tmp_path: Path, features: str, message: str) -> None:
    """They are refused before anything is read, with the nearest name."""
    with pytest.raises(UsageError) as refused:
        train([tmp_path / "no.jsonl"], tmp_path / "m", features=features, say=silent)

    assert str(refused.value) == message


def test_determinism(tmp_path: Path) -> None:
    """The same data and seed give the same model, to the byte, and the same scores; another seed does not."""
    data = write(tmp_path / "train.jsonl", rows(40))

    def trained(name: str, seed: int, jobs: int) -> tuple[dict[str, Any], bytes]:
        path = tmp_path / name
        return train([data], path, trees=5, seed=seed, jobs=jobs, say=silent), path.read_bytes()

    assert trained("a.joblib", 1, 1) == trained("b.joblib", 1, 2)
    assert trained("a.joblib", 1, 1)[1] != trained("c.joblib", 2, 1)[1]


def test_several_files(tmp_path: Path) -> None:
    """Several files are one data set; what only one of them says of its capture is unknown."""
    one = write(tmp_path / "one.jsonl", [row(MACS[0], 1.0)] * 5)
    two = write(tmp_path / "two.jsonl", [row(MACS[1], 2.0)] * 5)
    origin_path(one).write_bytes(b'{"filter": "tls"}')

    train([one, two], tmp_path / "model.joblib", trees=2, say=silent)

    contract = open_model(tmp_path / "model.joblib").contract
    assert contract is not None
    assert contract.filter is None
    assert contract.classes == {MACS[0]: 5, MACS[1]: 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trees": 0}, "0 trees: a forest needs at least 1"),
        ({"seed": -1}, "seed -1: give a number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed 4294967296: give a number from 0 to 4294967295"),
        ({"jobs": 0}, "0 jobs: give at least 1"),
        (
            {"estimator": "oracle"},
            "no estimator oracle: give one of forest, extra-trees, boosted, logistic",
        ),
        ({"estimator": "logistic", "trees": 7}, "logistic has no trees: leave out --trees"),
        ({"group_by": "mood"}, "rows cannot be grouped by mood: give one of capture, time, row"),
        ({"test_size": 0.0}, "test size 0.0: give more than 0 and at most 0.5"),
        ({"test_size": 0.51}, "test size 0.51: give more than 0 and at most 0.5"),
        ({"test_size": float("nan")}, "test size nan: give more than 0 and at most 0.5"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """An option out of range is refused before anything is read."""
    with pytest.raises(UsageError) as refused:
        train([tmp_path / "no.jsonl"], tmp_path / "m", say=silent, **options)

    assert str(refused.value) == message


def test_places_for_the_model(tmp_path: Path) -> None:
    """A model in place of its training data, or in no folder, is refused before anything is read."""
    data = write(tmp_path / "train.jsonl", rows(9))

    with pytest.raises(UsageError, match="is the training data: name another file for the model"):
        train([data], data, say=silent)
    with pytest.raises(OutputError, match=r"^cannot write .*/no/m: there is no folder .*/no; make it first$"):
        train([data], tmp_path / "no" / "m", say=silent)


def test_refused_data_leaves_no_model(tmp_path: Path) -> None:
    """Data that is refused leaves nothing behind; with skip_bad it is not refused."""
    data = write(tmp_path / "train.jsonl", [*rows(9), b"?"])
    path = tmp_path / "model.joblib"

    with pytest.raises(DatasetError, match="1 of 10 rows cannot be used"):
        train([data], path, say=silent)
    assert [one.name for one in tmp_path.iterdir()] == ["train.jsonl"]

    train([data], path, trees=2, skip_bad=True, say=silent)
    assert contract_path(path).is_file()
