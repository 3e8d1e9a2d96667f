"""A transformer serves live as a forest does, and remembers each device on the way."""

from __future__ import annotations

import json
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collector.features import NAMES
from tests.lab import Pair, veth_pair, wait_for
from tests.live.lives import CAPTURE, DEVICES, collected, lives, replay
from tests.live.test_model import credentials
from tests.tool import FLOWML, flowml, run_to_its_end

pytestmark = pytest.mark.live

SMALL = (
    "--dim",
    "16",
    "--depth",
    "1",
    "--heads",
    "1",
    "--epochs",
    "40",
    "--batch-size",
    "16",
    "--lr",
    "0.01",
)
"""A network that trains at once."""


@pytest.fixture(scope="module")
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformer")


@pytest.fixture(scope="module")
def data(wire: Pair, folder: Path) -> Path:
    """Training data, as it was collected."""
    return collected(wire, folder / "train.jsonl", 20)


@pytest.fixture(scope="module", params=[1, 3], ids=["one connection", "three connections"])
def model(request: pytest.FixtureRequest, data: Path, folder: Path) -> Path:
    """Weights of networks that look at so many connections of a device."""
    path = folder / f"model-{request.param}.pt"
    subprocess.run(
        [
            *(FLOWML, "train-transformer", "--train-file", data, "--out-weights", path),
            *("--lookback-len", str(request.param), *SMALL),
        ],
        check=True,
        capture_output=True,
    )
    return path


def test_weights_predict_live(wire: Pair, model: Path, folder: Path) -> None:
    """As nobody, without a right: the MACs, and the answers that the same rows get in turn from the file.

    Times are noise here and the network is tiny, so that it is right more often than by chance (one in three)
    is all that can be asked of it.
    """
    from ml.classifier import Sequential
    from ml.model import open_model

    options = ("--model", model, "--format", "record", "--features")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options) as running:
        found = credentials(running)
        replay(wire, lives(10, seed=2), folder)
        wait_for(lambda: len(running.lines()) == 30, "the predictions")
        assert running.stop() == 0
        records = running.lines()
        assert "Done. Processed 30 connections" in running.stderr()

    assert found["Uid"] == [str(pwd.getpwnam("nobody").pw_uid)] * 4
    assert found["CapEff"] == ["0" * 16]
    assert sum(record["label"] == record["s_mac"] for record in records) >= 15
    assert {record["label"] for record in records} <= set(DEVICES)

    served = open_model(model).load()
    X = np.array([[record[name] for name in NAMES] for record in records], dtype=float)
    if isinstance(served, Sequential):
        classes, probabilities = served.predict_in_turn(X, [record["s_mac"] for record in records])
    else:
        classes, probabilities = served.predict(X)
    assert [record["label"] for record in records] == [served.labels[i] for i in classes]
    # In another batch the same row is multiplied in another order.
    assert [record["probability"] for record in records] == pytest.approx(probabilities.tolist(), abs=1e-5)


def test_weights_that_do_not_fit_are_refused(wire: Pair, model: Path, tmp_path: Path) -> None:
    """One line, and nothing left attached."""
    meta = json.loads(Path(f"{model}.meta.json").read_text())
    other = tmp_path / "other.pt"
    other.write_bytes(model.read_bytes()[:-1])
    Path(f"{other}.meta.json").write_text(json.dumps(meta))

    for path, options, said in (
        (other, (), "changed after training"),
        (model, ("--filter", "tcp"), "filter"),
    ):
        code, text = run_to_its_end(
            *("attach", wire.right.iface, "--model", path, *options, "--outfile", "/dev/null"),
            ns=wire.right.ns,
        )
        last = text.splitlines()[-1]
        assert code == 3
        assert last.startswith("flowml: ")
        assert said in last
    assert "prog/xdp" not in wire.right.run(["ip", "link", "show", wire.right.iface])
