"""Training data that is easy to see through, for the tests of this ring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from collector.features import NAMES
from ml.contract import NAN_KEPT, Contract, flowml_features, library_versions
from ml.dataset import NO_CAPTURE, Dataset

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03")
TIMEOUTS = {"tcp_establish_timeout": 5000, "tcp_inactivity_timeout": 300_000}


def numbers(seed: int, rows: int) -> npt.NDArray[np.float64]:
    """Shape (rows, 17); about a tenth is NaN."""
    random = np.random.default_rng(seed)
    X = random.lognormal(3.0, 2.0, (rows, len(NAMES)))
    X[random.random(X.shape) < 0.1] = np.nan
    return X


def row(label: str = MACS[0], value: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A row of named fields, all of one value."""
    return {"s_mac": label, **dict.fromkeys(NAMES, value), **more}


def line(label: str = MACS[0], **more: Any) -> bytes:
    """A usable line, without its end."""
    return orjson.dumps(row(label, **more))


def write(path: Path, lines: Iterable[bytes | dict[str, Any]]) -> Path:
    """Lines, and objects as lines, to a file."""
    encoded = [text if isinstance(text, bytes) else orjson.dumps(text) for text in lines]
    path.write_bytes(b"".join(text + b"\n" for text in encoded))
    return path


def dataset(
    y: Sequence[int], *, captures: Sequence[int] | None = None, seconds: Sequence[int | None] | None = None
) -> Dataset:
    """Rows of these classes; each feature of a row is the row's index."""
    ids = np.array(y, dtype=np.intp)
    n = len(ids)
    times = [None] * n if seconds is None else seconds
    return Dataset(
        X=np.tile(np.arange(n, dtype=np.float64)[:, None], len(NAMES)),
        y=ids,
        classes=tuple(f"class {i}" for i in range(int(ids.max()) + 1)),
        captures=np.full(n, NO_CAPTURE) if captures is None else np.array(captures, dtype=np.intp),
        start=np.array([np.datetime64("NaT" if s is None else s, "s") for s in times], "datetime64[us]"),
        bad=(),
        sha256="",
    )


def contract(**changes: Any) -> Contract:
    """A contract that fits `flowml attach` with its defaults."""
    members: dict[str, Any] = {
        "features": flowml_features(),
        "nan": NAN_KEPT,
        "filter": "tls",
        "ip": "4",
        "timeouts": dict(TIMEOUTS),
        "classes": dict.fromkeys(MACS, 7),
        "estimator": "sklearn.ensemble._forest.RandomForestClassifier",
        "parameters": {"n_estimators": 5, "max_depth": None, "max_features": "sqrt"},
        "versions": library_versions(),
        "data_sha256": "d" * 64,
        "scores": {"accuracy": 0.5},
        "created": "2024-01-02T03:04:05Z",
    }
    return Contract(**{**members, **changes})
