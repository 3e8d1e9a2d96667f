"""A model of another scikit-learn: trained with the nearest other release, and served by this one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn

from collector.errors import ModelError
from ml.estimators import ESTIMATORS
from ml.model import ModelFiles, open_model
from tests.conftest import REQUIRED
from tests.ml.samples import MACS, numbers, write

ROOT = Path(__file__).resolve().parent.parent.parent
MAJOR, MINOR = map(int, sklearn.__version__.split(".")[:2])
OTHER = f"{MAJOR}.{MINOR - 1}"

TRAIN = """
import json, sys
from pathlib import Path
import joblib, numpy as np, sklearn
from collector.cli import main
folder, estimator = Path(sys.argv[1]), sys.argv[2]
sys.argv = ["flowml", "train", str(folder / "train.jsonl"), str(folder / "model"), "--estimator", estimator]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
X = np.load(folder / "X.npy")
np.save(folder / "expected.npy", joblib.load(folder / "model").predict_proba(X))
(folder / "version").write_text(sklearn.__version__)
"""


@pytest.fixture(scope="module")
def other() -> Path:
    """A folder with the other release, to be looked in before the environment; kept for the next run."""
    folder = ROOT / ".cache" / f"scikit-learn-{OTHER}"
    if not (folder / "sklearn").is_dir():
        wanted = ["--no-deps", "--only-binary", ":all:", "--target", str(folder), f"scikit-learn=={OTHER}.*"]
        got = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", *wanted],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if got.returncode:
            (pytest.fail if REQUIRED else pytest.skip)(f"scikit-learn {OTHER} is not to be had: {got.stderr}")
    return folder


def refused(files: ModelFiles) -> str:
    """Why loading is refused; empty where it is not."""
    try:
        replace(files, warnings=[]).load()
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_model_of_the_nearest_other_release(other: Path, tmp_path: Path, estimator: str) -> None:
    """One warning that names both releases; the answers are those that the other release gives.

    Boosted models hold modules that have moved between releases. They may be refused, naming both.
    """
    X, y = numbers(0, 200), np.arange(200) % 3
    rows = [
        {"s_mac": MACS[i], "fts": [None if np.isnan(v) else float(v) for v in x], "capture": n // 10}
        for n, (x, i) in enumerate(zip(X, y, strict=True))
    ]
    write(tmp_path / "train.jsonl", rows)
    np.save(tmp_path / "X.npy", X)
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path), estimator],
        check=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{other}:{ROOT}"},
        cwd=tmp_path,
    )
    version = (tmp_path / "version").read_text()
    assert version.startswith(OTHER + ".")
    files = open_model(tmp_path / "model")
    if estimator == "boosted" and (refusal := refused(files)):
        assert f"(it is of scikit-learn {version}, here is {sklearn.__version__})" in refusal
        return
    classifier = files.load()

    classes, probabilities = classifier.predict(X)

    expected = np.load(tmp_path / "expected.npy")
    assert files.warnings == [
        f"model was trained with scikit-learn {version}, here is {sklearn.__version__}: "
        "its answers may differ; train it again to be sure"
    ]
    assert classes.tolist() == expected.argmax(axis=1).tolist()
    assert np.abs(probabilities - expected.max(axis=1)).max() < 1e-6
