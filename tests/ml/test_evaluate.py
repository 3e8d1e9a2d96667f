"""`flowml evaluate`: what it finds, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score

from collector.errors import DatasetError, ModelError, OutputError
from ml.evaluate import evaluate
from ml.model import contract_path, labels_path
from ml.origin import origin_path
from ml.page import page
from ml.report import NUMBERS, PAGE
from ml.train import train
from tests.ml.samples import MACS, TIMEOUTS, row, write

FLOWML = Path(sys.executable).with_name("flowml")


def rows(n: int, captures: int = 10, **more: Any) -> list[dict[str, Any]]:
    """Two thirds of the first label; the sign tells the labels apart."""
    return [
        row(MACS[0] if i % 3 else MACS[1], i if i % 3 else -i - 100, capture=f"{i % captures}.pcap", **more)
        for i in range(n)
    ]


def silent(line: str) -> None:
    """Reports to nobody."""


def captured(path: Path, **changes: Any) -> Path:
    """Says beside a file how it was captured."""
    origin_path(path).write_bytes(orjson.dumps({"filter": "tcp", **TIMEOUTS, **changes}))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A forest that tells the sign."""
    data = captured(write(tmp_path / "train.jsonl", rows(90)))
    train([data], tmp_path / "model.joblib", trees=7, say=silent)
    return tmp_path / "model.joblib"


def test_evaluate(model: Path, tmp_path: Path) -> None:
    """All numbers, and nothing to warn of where the test data was captured as the training data was."""
    wrong = [row(MACS[1], 7.0, capture="10.pcap")] * 6
    data = captured(write(tmp_path / "test.jsonl", [*rows(54), *wrong]))
    lines: list[str] = []

    found = evaluate(model, [data], say=lines.append)

    assert (found["rows"], found["captures"]) == (60, 11)
    assert found["scores"] == {
        "accuracy": 0.9,
        "balanced_accuracy": pytest.approx((1 + 18 / 24) / 2),
        "macro_f1": pytest.approx((2 * 36 / (36 + 42) + 2 * 18 / (24 + 18)) / 2),
    }
    assert found["majority"] == {"label": MACS[0], "accuracy": 0.6}
    assert found["confusion"] == [[36, 0], [6, 18]]
    assert found["labels"] == MACS[:2]
    assert found["unseen"] == {}
    assert found["importance"] is None
    assert lines[0] == "60 rows of 11 captures"
    assert lines[1].startswith("accuracy 0.900 [")
    assert not any(line.startswith("warning") for line in lines)


def test_labels_that_the_model_does_not_know(model: Path, tmp_path: Path) -> None:
    """They are scored as wrong, and said; a test file of one label only is fine."""
    data = captured(write(tmp_path / "test.jsonl", [row("02:ff", 5.0, capture=i // 2) for i in range(8)]))
    lines: list[str] = []

    found = evaluate(model, [data], say=lines.append)

    assert found["scores"] == {"accuracy": 0.0, "balanced_accuracy": 0.0, "macro_f1": 0.0}
    assert found["unseen"] == {"02:ff": 8}
    assert found["majority"] == {"label": MACS[0], "accuracy": 0.0}
    assert "labels that the model does not know, scored as wrong: 1, in 8 of 8 rows (02:ff)" in lines


def test_data_that_the_model_was_trained_on(model: Path) -> None:
    """Its scores flatter, which is said."""
    lines: list[str] = []

    evaluate(model, [model.with_name("train.jsonl")], say=lines.append)

    assert lines[0] == "warning: this is the data that the model was trained on: its scores flatter"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"filter": "tls"}, "model.joblib was trained on filter=tcp, but filter=tls is asked"),
        ({"ip": "6"}, "model.joblib was trained on ip=4, but ip=6 is asked"),
        (
            {"tcp_establish_timeout": 7},
            "model.joblib was trained on tcp_establish_timeout=5000 ms, but tcp_establish_timeout=7 ms is "
            "asked",
        ),
    ],
)
def test_data_that_was_captured_otherwise(
    model: Path, tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    """It is refused, naming the difference; with force it is a warning."""
    data = captured(write(tmp_path / "test.jsonl", rows(9)), **changes)
    lines: list[str] = []

    with pytest.raises(ModelError) as refused:
        evaluate(model, [data], say=silent)
    evaluate(model, [data], force=True, say=lines.append)

    assert str(refused.value).startswith(difference)
    assert str(refused.value).endswith("; or go on all the same with --force")
    assert lines[0].startswith(f"warning: {difference}")


def test_data_that_does_not_say_how_it_was_captured(model: Path, tmp_path: Path) -> None:
    """Is warned of."""
    lines: list[str] = []

    evaluate(model, [write(tmp_path / "test.jsonl", rows(9))], say=lines.append)

    assert lines[0] == (
        "warning: the test data does not say with which filter, ip, tcp_establish_timeout, "
        "tcp_inactivity_timeout it was captured: scores only mean something if it was as the training data "
        "was"
    )


def test_a_bare_estimator(tmp_path: Path) -> None:
    """Of a model without contract it is not known what it was trained on, so there is no majority to beat."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(50, 17)), random.integers(2, size=50)
    path = tmp_path / "bare.joblib"
    forest = RandomForestClassifier(3, random_state=0).fit(X, np.array(MACS)[y])
    joblib.dump(forest, path)
    data = [{"s_mac": MACS[i], "fts": x.tolist()} for x, i in zip(X, y, strict=True)]

    found = evaluate(path, [write(tmp_path / "test.jsonl", data)], say=silent)

    assert found["majority"] is None
    assert found["model"] == {"name": "bare.joblib", "contract": None}
    assert found["scores"]["accuracy"] == accuracy_score(np.array(MACS)[y], forest.predict(X))
    assert found["intervals"] is None


class Page(HTMLParser):
    """What a page holds, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data")]
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report(model: Path, tmp_path: Path) -> None:
    """One page that loads nothing, with everything on it; beside it the same numbers as JSON."""
    data = captured(write(tmp_path / "test.jsonl", rows(30)))
    folder = tmp_path / "made" / "here"

    found = evaluate(model, [data], report_to=folder, say=silent)

    text = (folder / PAGE).read_text()
    shown = Page(text)
    assert orjson.loads((folder / NUMBERS).read_bytes()) == json.loads(json.dumps(found, default=repr))
    assert shown.loads == []
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(shown.tags)
    assert "url(" not in text
    assert "@import" not in text
    for part in ("balanced accuracy", "Classes", "Who is taken for whom", "believed", "What it looks at"):
        assert part in shown.text
    assert found["model"]["contract"]["model_sha256"] in shown.text
    for label in MACS[:2]:
        assert label in shown.text
    assert len(found["importance"]) == 17


def test_importance_finds_what_tells(tmp_path: Path) -> None:
    """Where one feature tells the labels apart and the others are noise, only shuffling it costs."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(200, 17))
    noise[:, 4] = np.arange(200) % 2
    data = captured(
        write(
            tmp_path / "train.jsonl",
            [{"s_mac": MACS[i % 2], "fts": x.tolist(), "capture": i // 10} for i, x in enumerate(noise)],
        )
    )
    train([data], tmp_path / "model.joblib", trees=30, say=silent)

    first, *others = evaluate(tmp_path / "model.joblib", [data], report_to=tmp_path, say=silent)["importance"]

    assert first["feature"] == "s_ttl_mean"
    assert first["mean"] > 0.3
    assert max(abs(other["mean"]) for other in others) < 0.05


def test_labels_cannot_be_markup(model: Path, tmp_path: Path) -> None:
    """A label is text on the page, whatever is in it."""
    evil = '<script>alert(1)</script>" onload="alert(2)'
    data = captured(write(tmp_path / "test.jsonl", [*rows(9), row(evil, 1.0), row('"\n&', 2.0)]))

    evaluate(model, [data], report_to=tmp_path, say=silent)

    shown = Page((tmp_path / PAGE).read_text())
    assert "script" not in shown.tags
    assert "onload" not in shown.names
    assert evil in shown.text


def test_many_classes(model: Path, tmp_path: Path) -> None:
    """Of many classes the page draws the commonest, and says so; the numbers have all."""
    labels = [f"device {i}" for i in range(100)]
    data = captured(write(tmp_path / "test.jsonl", [row(label, 1.0) for label in labels]))

    found = evaluate(model, [data], report_to=tmp_path, say=silent)

    text = Page(page("t", found)).text
    assert "The 40 commonest of 101 labels" in text
    assert " (1), and 90 more." in text
    assert len(found["confusion"]) == 102


def test_train_reports_on_the_rows_held_out(tmp_path: Path) -> None:
    """The same page, with how they were held out; what it says is what the contract says."""
    data = captured(write(tmp_path / "train.jsonl", rows(90)))

    scores = train([data], tmp_path / "m", trees=7, report_to=tmp_path / "report", say=silent)

    numbers = orjson.loads((tmp_path / "report" / NUMBERS).read_bytes())
    assert numbers["split"]["by"] == "capture"
    assert numbers["rows"] == scores["n_test"]
    assert numbers["scores"]["accuracy"] == scores["accuracy"]
    assert (
        numbers["model"]["contract"]["model_sha256"]
        == orjson.loads(contract_path(tmp_path / "m").read_bytes())["model_sha256"]
    )
    assert "held out of training, by capture" in (tmp_path / "report" / PAGE).read_text()


def test_a_report_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    """Is refused before anything is read."""
    with pytest.raises(
        OutputError, match=r"^cannot make .*train\.jsonl: File exists; name another --report$"
    ):
        evaluate(model, [tmp_path / "no.jsonl"], report_to=tmp_path / "train.jsonl", say=silent)


def test_the_command(model: Path, tmp_path: Path) -> None:
    """Numbers go to standard output as one JSON object, lines for people to standard error."""
    data = captured(write(tmp_path / "test.jsonl", rows(30)))
    done = subprocess.run([FLOWML, "evaluate", model, data], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["scores"]["accuracy"] == 1.0
    assert done.stdout.count("\n") == 1
    assert "accuracy 1.000" in done.stderr
    assert "\x1b" not in done.stderr


def test_several_training_files_on_the_command_line(model: Path, tmp_path: Path) -> None:
    """The last name is the model; an estimator, a split and a report can be chosen."""
    one, two = (captured(write(tmp_path / f"{name}.jsonl", rows(60))) for name in ("one", "two"))
    out, report = tmp_path / "m", tmp_path / "r"
    options = ["--estimator", "extra-trees", "--group-by", "row", "--test-size", "0.5", "--trees", "3"]
    done = subprocess.run(
        [FLOWML, "train", one, two, out, *options, "--report", report],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == ""
    assert "120 rows, 2 classes" in done.stderr
    assert "warning: held out: 60 of 120 rows, by row" in done.stderr
    assert orjson.loads(contract_path(out).read_bytes())["estimator"].endswith("ExtraTreesClassifier")
    assert (report / PAGE).is_file()


def test_predict_takes_force(model: Path, tmp_path: Path) -> None:
    """Rows made with another filter are refused; with --force that is a warning, and lines are written."""
    data = captured(write(tmp_path / "test.jsonl", rows(9)), filter="tls")
    out = tmp_path / "out.jsonl"
    command = [str(part) for part in (FLOWML, "predict", model, data, "--outfile", out)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    forced = subprocess.run([*command, "--force"], capture_output=True, text=True, check=True)

    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("flowml: model.joblib was trained on filter=tcp, but ")
    assert "warning: model.joblib was trained on filter=tcp, but filter=tls is asked" in forced.stderr
    assert out.read_text().count("\n") == 9


def test_bad_input_is_one_line(model: Path, tmp_path: Path) -> None:
    """Whatever is wrong with a model, its labels or the data, it is one line, and a code that is not 0."""
    good = captured(write(tmp_path / "test.jsonl", rows(9)))
    text = tmp_path / "text.joblib"
    text.write_bytes(b"no model at all")
    other = tmp_path / "other.joblib"
    joblib.dump({"a": "dictionary"}, other)
    wide = tmp_path / "wide.joblib"
    joblib.dump(RandomForestClassifier(2).fit(np.eye(4), [0, 1, 0, 1]), wide)
    changed = tmp_path / "changed.joblib"
    changed.write_bytes(model.read_bytes() + b" ")
    contract_path(changed).write_bytes(contract_path(model).read_bytes())
    labels_path(changed).write_bytes(labels_path(model).read_bytes())
    short = write(tmp_path / "short.json", [b'["one"]'])
    empty = write(tmp_path / "empty.jsonl", [])
    undefined = write(tmp_path / "undefined.jsonl", [row(mac, None) for mac in MACS])
    one = write(tmp_path / "one.jsonl", [row(MACS[0], i) for i in range(9)])
    out = tmp_path / "out.joblib"

    for said, *arguments in (
        ("cannot be unpickled", "evaluate", text, good),
        ("holds a dict without predict_proba", "evaluate", other, good),
        ("takes 4 features, but flowml has 17", "evaluate", wide, good),
        ("changed after training", "evaluate", changed, good, "--force"),
        (
            "short.json has 1 labels, but model.joblib was trained on 2 classes",
            "evaluate",
            model,
            good,
            "--labels-file",
            short,
        ),
        ("there is no model", "evaluate", tmp_path / "none", good),
        ("cannot read", "evaluate", model, tmp_path / "none"),
        ("empty.jsonl: no row", "evaluate", model, empty),
        ("every feature of all 3 rows is undefined", "evaluate", model, undefined),
        ("text.joblib line 1: not JSON", "evaluate", model, text),
        ("empty.jsonl: no row", "train", empty, out),
        ("a model of one class knows nothing", "train", one, out),
        ("every feature of all 3 rows is undefined", "train", undefined, out),
        ("no estimator magic", "train", good, out, "--estimator", "magic"),
        ("test size 0.9", "train", good, out, "--test-size", "0.9"),
        ("nothing can be held out by time", "train", good, out, "--group-by", "time"),
    ):
        done = subprocess.run(
            [FLOWML, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("flowml: ")]
        assert done.returncode in (2, 3), (arguments, done.stderr)
        assert len(lines) == 1
        assert lines[0] == done.stderr.splitlines()[-1]
        assert said in lines[0]
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert not out.exists()


def test_nothing_is_scored_of_nothing(model: Path, tmp_path: Path) -> None:
    """A file without rows is refused, not scored as perfect."""
    with pytest.raises(DatasetError, match="no row"):
        evaluate(model, [write(tmp_path / "empty.jsonl", [b"", b" "])], say=silent)
