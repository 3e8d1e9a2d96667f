"""How training data was captured, from the file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from collector.errors import DatasetError
from ml import origin
from ml.origin import Origin, origin_path
from tests.ml.samples import TIMEOUTS


def data(folder: Path, name: str, **settings: Any) -> Path:
    """Training data with a file beside it that says these settings."""
    path = folder / name
    origin_path(path).write_bytes(orjson.dumps(settings))
    return path


def test_known(tmp_path: Path) -> None:
    """The filter and the timeouts are those that all of the files say."""
    paths = [data(tmp_path, name, filter="tls", **TIMEOUTS, more=1) for name in ("a.jsonl", "b.jsonl")]

    assert (tmp_path / "a.jsonl.meta.json").is_file()
    assert origin.read(paths) == Origin("tls", "4", TIMEOUTS)  # type: ignore[arg-type]


def test_unknown(tmp_path: Path) -> None:
    """What one of the files does not say is unknown; so is everything where nothing stands beside one."""
    full = data(tmp_path, "a.jsonl", filter="tls", **TIMEOUTS)
    part = data(tmp_path, "b.jsonl", filter="tls", tcp_establish_timeout=None)
    nothing = {"tcp_establish_timeout": None, "tcp_inactivity_timeout": None}

    assert origin.read([full, part]) == Origin("tls", "4", nothing)  # type: ignore[arg-type]
    assert origin.read([full, tmp_path / "c.jsonl"]) == Origin(None, None, nothing)  # type: ignore[arg-type]


def test_ip(tmp_path: Path) -> None:
    """What says nothing of `ip` is of a time when there was IPv4 alone; what stands there is taken."""
    before = data(tmp_path, "a.jsonl", filter="tls", **TIMEOUTS)
    both = data(tmp_path, "b.jsonl", filter="tls", ip="both", **TIMEOUTS)
    null = data(tmp_path, "c.jsonl", filter="tls", ip=None, **TIMEOUTS)

    assert [origin.read([path]).ip for path in (before, both, null)] == ["4", "both", None]
    assert origin.read([null]).unknown() == ["ip"]
    with pytest.raises(
        DatasetError, match=r"a\.jsonl was captured with ip=4, .*b\.jsonl with ip=both; train on"
    ):
        origin.read([before, both])


def test_disagreement(tmp_path: Path) -> None:
    """Files that were captured with different settings are refused, with the settings."""
    one = data(tmp_path, "a.jsonl", filter="tls", **TIMEOUTS)
    two = data(tmp_path, "b.jsonl", filter="tls", **{**TIMEOUTS, "tcp_inactivity_timeout": 60_000})

    with pytest.raises(DatasetError) as refused:
        origin.read([one, tmp_path / "unknown.jsonl", two])

    assert str(refused.value) == (
        f"{one} was captured with tcp_inactivity_timeout=300000, {two} with tcp_inactivity_timeout=60000; "
        "train on data that was captured alike"
    )


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"filter": 6}',
        b'{"ip": 6}',
        b'{"tcp_establish_timeout": "5000"}',
        b'{"tcp_establish_timeout": -1}',
        b'{"tcp_inactivity_timeout": true}',
    ],
)
def test_wrong_kind(tmp_path: Path, text: bytes) -> None:
    """A file of another form is refused rather than taken for unknown."""
    path = origin_path(tmp_path / "a.jsonl")
    path.write_bytes(text)

    with pytest.raises(DatasetError) as refused:
        origin.read([tmp_path / "a.jsonl"])

    assert str(refused.value) == (
        f"{path} is not an object with filter and ip (text) and tcp_establish_timeout, "
        "tcp_inactivity_timeout (milliseconds); correct it, or remove it"
    )


def test_unreadable(tmp_path: Path) -> None:
    """What is not JSON, or no file, is refused by its name."""
    origin_path(tmp_path / "a.jsonl").write_bytes(b"{")
    origin_path(tmp_path / "b.jsonl").mkdir()

    with pytest.raises(
        DatasetError, match=r"a\.jsonl\.meta\.json is not JSON \(.*\); correct it, or remove it"
    ):
        origin.read([tmp_path / "a.jsonl"])
    with pytest.raises(DatasetError, match=r"^cannot read .*b\.jsonl\.meta\.json: Is a directory; "):
        origin.read([tmp_path / "b.jsonl"])
