"""`flowml train-transformer` and `flowml run-transformer`, from the command line to the files."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from collector.cli import main
from collector.features import NAMES
from ml.evaluate import evaluate
from ml.model import contract_path, labels_path, open_model
from ml.origin import origin_path
from ml.train_transformer import train
from ml.transformer_training import Schedule
from tests.ml.samples import MACS, TIMEOUTS, row, write
from tests.tool import FLOWML

SMALL = ("--dim", "8", "--depth", "1", "--heads", "1", "--dim-head", "8")
"""Flags of a network that trains at once."""


def rows(captures: int, seed: int = 0, macs: tuple[str, ...] = MACS) -> list[dict[str, Any]]:
    """Two connections of each device in each capture; sizes tell the devices apart."""
    random = np.random.default_rng(seed)
    found = []
    for capture in range(captures):
        for i, mac in enumerate(macs):
            for second in range(2):
                values = dict(zip(NAMES, (random.random(17) + 3 * i).tolist(), strict=True))
                start = f"2024-01-01T00:{capture % 60:02}:{second:02}Z"
                found.append(row(mac, **values, capture=f"{capture}.pcap", start=start))
    return found


def flowml(*arguments: str | Path, code: int = 0) -> str:
    """Runs it to its end; answers what it said on standard error.

    In this process, for importing PyTorch takes longer than what is tested.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["flowml", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0, out.getvalue()) == (code, ""), err.getvalue()
    return err.getvalue()


def refused(*arguments: str | Path, code: int) -> str:
    """The one line with which it ends."""
    (line,) = flowml(*arguments, code=code).splitlines()
    assert line.startswith("flowml: ")
    return line.removeprefix("flowml: ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformer")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    """Training data that says how it was captured."""
    path = write(folder / "train.jsonl", rows(30))
    origin_path(path).write_bytes(orjson.dumps({"filter": "tls", **TIMEOUTS}))
    return path


@pytest.fixture(scope="module")
def said(folder: Path, data: Path) -> str:
    """What training the model said."""
    flags = ("--epochs", "30", "--batch-size", "16", "--lr", "1e-2", *SMALL, "--lookback_len", "2")
    return flowml("train-transformer", "--train_file", data, "--out_weights", folder / "m.pt", *flags)


@pytest.fixture
def model(folder: Path, said: str) -> Iterator[Path]:
    """Its weights; whatever a test does to the files beside them is undone."""
    path = folder / "m.pt"
    kept = {one: one.read_bytes() for one in (path, contract_path(path), labels_path(path))}
    yield path
    for one, content in kept.items():
        one.write_bytes(content)


def test_training(model: Path, said: str) -> None:
    """It says the data, the device and the scores on whole captures; three files tell the rest."""
    told = open_model(model).contract

    lines = said.splitlines()
    assert lines[0] == "180 rows, 3 classes"
    assert "held out: 36 of 180 rows, by capture: whole captures" in lines
    assert any(
        line.startswith("fitting on rows not held out: 30 epochs, 16 rows a step, on ") for line in lines
    )
    assert lines[-1] == f"fitted on all 180 rows: {model}, m.pt.labels.json, m.pt.meta.json"
    assert told is not None
    assert told.scores["accuracy"] > 0.95
    assert (told.filter, told.timeouts) == ("tls", TIMEOUTS)
    assert told.classes == dict.fromkeys(MACS, 60)
    assert told.parameters["hyperparameters"]["lookback_len"] == 2
    assert told.parameters["training"] | {"device": ""} == {
        "epochs": 30,
        "batch_size": 16,
        "lr": 1e-2,
        "seed": 0,
        "device": "",
    }
    assert {"torch", "iTransformer"} <= set(told.versions)


def test_running(model: Path, tmp_path: Path) -> None:
    """A label a row, in the order of the rows; scores, and those of labels that were never seen, are said."""
    test = write(tmp_path / "test.jsonl", [*rows(5, seed=1), b"", row("new device", capture="x")])
    out = tmp_path / "out.jsonl"

    said = flowml("run-transformer", "--weights", model, "--test-file", test, "--outfile", out)

    labels = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert labels[:-1] == [one["s_mac"] for one in rows(5, seed=1)]
    assert labels[-1] in MACS
    assert "labels that the model does not know, scored as wrong: 1, in 1 of 31 rows (new device)" in said
    assert "accuracy 0.968" in said
    assert said.splitlines()[-1] == "Done. Processed 31 connections"


def test_records(model: Path, tmp_path: Path) -> None:
    """A record is the row with its answer; lines that cannot be used have none."""
    test = write(tmp_path / "test.jsonl", [b"?", *rows(1, seed=1), b"{}", row(MACS[0], note="kept")])
    out = tmp_path / "out.jsonl"

    flowml(
        *("run-transformer", "--weights", model, "--test-file", test, "--outfile", out),
        *("--format", "record", "--skip-bad"),
    )

    records = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [one["s_mac"] for one in records] == [mac for mac in MACS for _ in range(2)] + [MACS[0]]
    assert [one["label"] for one in records[:-1]] == [one["s_mac"] for one in records[:-1]]
    assert all(0 < one["probability"] <= 1 for one in records)
    assert records[-1]["note"] == "kept"


def test_predict_and_evaluate_serve_it_too(model: Path, tmp_path: Path) -> None:
    """The same answers by every way: windows are per capture, whichever command makes them."""
    test = write(tmp_path / "test.jsonl", rows(5, seed=1))
    origin_path(test).write_bytes(orjson.dumps({"filter": "tls", **TIMEOUTS}))
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    record = ("--format", "record")

    flowml("run-transformer", "--weights", model, "--test-file", test, "--outfile", ours, *record)
    flowml("predict", model, test, "--outfile", theirs, *record)
    found = evaluate(model, [test], say=lambda _: None)

    answers = [
        [(one["label"], pytest.approx(one["probability"], abs=1e-6)) for one in map(orjson.loads, lines)]
        for lines in (ours.read_bytes().splitlines(), theirs.read_bytes().splitlines())
    ]
    assert answers[0] == [(label, p.expected) for label, p in answers[1]]
    assert found["scores"]["accuracy"] == 1.0


def test_without_a_contract(model: Path, tmp_path: Path) -> None:
    """The hyperparameters are flags then; with one, a flag that says otherwise is refused."""
    test = write(tmp_path / "test.jsonl", rows(2))
    run = ("run-transformer", "--weights", model, "--test-file", test, "--outfile", tmp_path / "out")

    assert refused(*run, "--depth", "2", code=2) == ("--depth 2, but m.pt.meta.json says 1: leave it out")
    meta = tmp_path / "meta.json"
    meta.write_bytes(contract_path(model).read_bytes())
    contract_path(model).unlink()
    assert "weights for other hyperparameters" in refused(*run, code=3)
    assert "Done. Processed 12 connections" in flowml(*run, *SMALL, "--lookback_len", "2")
    assert "Done. Processed 12 connections" in flowml(*run, "--meta", meta)
    assert "there is no contract" in refused(*run, "--meta", tmp_path / "no.json", code=3)


def test_labels_elsewhere(data: Path, tmp_path: Path) -> None:
    """Labels go where they are wanted, and are found there."""
    labels = tmp_path / "names.json"
    out = tmp_path / "m.pt"
    flags = ("--epochs", "1", *SMALL)

    flowml("train-transformer", "--train-file", data, "--out-weights", out, "--labels-out", labels, *flags)

    assert orjson.loads(labels.read_bytes()) == list(MACS)
    assert not labels_path(out).exists()
    assert open_model(out, labels).load().labels == MACS


def test_what_training_refuses(data: Path, tmp_path: Path) -> None:
    """Each is one line, before anything is trained, and leaves nothing behind."""
    empty = write(tmp_path / "empty.jsonl", [])
    alone = write(tmp_path / "alone.jsonl", [row(MACS[0])])
    blank = write(tmp_path / "blank.jsonl", [row(mac, None) for mac in MACS])
    out = tmp_path / "m.pt"

    def train(path: Path, *flags: str | Path, code: int) -> str:
        return refused("train-transformer", "--train-file", path, "--out-weights", out, *flags, code=code)

    assert "no row" in train(empty, code=3)
    assert "a model of one class knows nothing" in train(alone, code=3)
    assert "every feature of all 3 rows is undefined" in train(blank, code=3)
    assert train(data, "--num_variates", "16", code=2) == "--num-variates 16: give 17"
    assert train(data, "--device", "tpu", code=2) == "--device tpu: give one of auto, cpu, cuda"
    assert "which is another file" in train(data, "--labels-out", data, code=2)
    assert "there is no folder" in train(data, "--labels-out", tmp_path / "no" / "l.json", code=4)
    assert "--epochs 0: give at least 1" in train(data, "--epochs", "0", code=2)
    assert not list(tmp_path.glob("m.pt*"))


def test_what_running_refuses(model: Path, tmp_path: Path) -> None:
    """Each is one line, and the output is not begun."""
    test = write(tmp_path / "test.jsonl", rows(2))
    tcp = write(tmp_path / "tcp.jsonl", rows(2))
    origin_path(tcp).write_bytes(orjson.dumps({"filter": "tcp", **TIMEOUTS}))
    empty = write(tmp_path / "empty.jsonl", [])
    short = tmp_path / "short.json"
    short.write_bytes(b'["one"]')
    out = tmp_path / "out.jsonl"

    def run(weights: Path, path: Path, *flags: str | Path, code: int) -> str:
        arguments = ("--weights", weights, "--test-file", path, "--outfile", out, *flags)
        return refused("run-transformer", *arguments, code=code)

    assert "there is no model" in run(tmp_path / "no.pt", test, code=3)
    assert "holds no weights of a transformer" in run(test, test, code=3)
    assert "was trained on filter=tls, but filter=tcp is asked" in run(model, tcp, code=3)
    assert "short.json has 1 labels, but m.pt was trained on 3 classes" in run(
        model, test, "--labels-file", short, code=3
    )
    assert "no row" in run(model, empty, code=3)
    assert run(model, test, "--format", "xml", code=2) == "--format xml: give one of label, record"
    assert not out.exists()
    assert "is an input" in refused(
        "run-transformer", "--weights", model, "--test-file", test, "--outfile", test, code=2
    )


def test_ctrl_c_writes_nothing(data: Path, tmp_path: Path) -> None:
    """Interrupted while it trains, it says so in one line and leaves an older model as it was."""
    out = write(tmp_path / "m.pt", [b"old"])
    arguments = ("--train-file", data, "--out-weights", out, "--epochs", "1000000", *SMALL)
    running = subprocess.Popen(
        [FLOWML, "train-transformer", *arguments], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert running.stderr is not None
    lines = []
    for line in running.stderr:
        lines.append(line)
        if line.startswith("fitting"):
            time.sleep(0.5)  # into an epoch; wherever it is, the promise is the same
            running.send_signal(signal.SIGINT)
    running.stderr.close()
    assert running.wait(timeout=60) == 130
    assert lines[-1] == "stopped: no model was written; fewer --epochs take less time\n"
    assert [one.name for one in tmp_path.iterdir()] == ["m.pt"]
    assert out.read_bytes() == b"old\n"


def test_no_report_without_rows_held_out(tmp_path: Path) -> None:
    """Where nothing can be held out there is a model, and no score."""
    data = write(tmp_path / "train.jsonl", [row(mac, i) for i, mac in enumerate(MACS)])
    lines: list[str] = []

    found = train([data], tmp_path / "m.pt", schedule=Schedule(epochs=1), device="cpu", say=lines.append)

    assert (found["n_test"], found["accuracy"]) == (0, None)
    assert open_model(tmp_path / "m.pt").load().labels == MACS


def test_the_report(data: Path, tmp_path: Path) -> None:
    """--report writes the page and the numbers, as for a forest."""
    out = tmp_path / "m.pt"
    flags = ("--epochs", "1", *SMALL, "--report", tmp_path / "report")

    flowml("train-transformer", "--train-file", data, "--out-weights", out, *flags)

    names = {one.suffix for one in (tmp_path / "report").iterdir()}
    assert names == {".html", ".json"}
