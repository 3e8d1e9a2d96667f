"""How training data was captured, which the rows themselves do not say.

Beside `TRAIN.jsonl` stands `TRAIN.jsonl.meta.json`, an object with `filter`, `ip` and the `TIMEOUTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from collector.errors import DatasetError

__all__ = ["IP_BEFORE", "TIMEOUTS", "Origin", "origin_path", "read"]

TIMEOUTS = ("tcp_establish_timeout", "tcp_inactivity_timeout")
"""Settings that decide where a connection ends, in milliseconds."""

IP_BEFORE = "4"
"""What was captured where nothing is said of `ip`: there was no other then."""


class Origin(NamedTuple):
    """How training data was captured; None where that is unknown."""

    filter: str | None
    """tls or tcp."""
    ip: str | None
    """4, 6 or both."""
    timeouts: dict[str, int | None]
    """The `TIMEOUTS`, in milliseconds."""

    def unknown(self) -> list[str]:
        """The names of what is not known."""
        told = {"filter": self.filter, "ip": self.ip, **{name: self.timeouts.get(name) for name in TIMEOUTS}}
        return [name for name, value in told.items() if value is None]


def origin_path(data: Path) -> Path:
    """The file beside training data that says how it was captured."""
    return data.with_name(data.name + ".meta.json")


def read(paths: Sequence[Path]) -> Origin:
    """How training data was captured, from the `.meta.json` beside each file that has one.

    What one of the files does not say is unknown for all of them.

    Raises
    ------
    DatasetError
        When such a file cannot be read or understood, or two of them disagree.
    """
    told = [(path, _sidecar(origin_path(path))) for path in paths]
    common: dict[str, Any] = {}
    for name in ("filter", "ip", *TIMEOUTS):
        known = [(path, origin[name]) for path, origin in told if origin.get(name) is not None]
        for path, value in known:
            if value != known[0][1]:
                raise DatasetError(
                    f"{known[0][0]} was captured with {name}={known[0][1]}, {path} with {name}={value}; "
                    "train on data that was captured alike"
                )
        common[name] = known[0][1] if len(known) == len(paths) else None
    return Origin(common["filter"], common["ip"], {name: common[name] for name in TIMEOUTS})


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}; make it readable, or remove it") from error
    except orjson.JSONDecodeError as error:
        raise DatasetError(f"{path} is not JSON ({error}); correct it, or remove it") from None
    if (
        not isinstance(document, dict)
        or not all(isinstance(document.get(name), (str, type(None))) for name in ("filter", "ip"))
        or not all(_is_count_or_null(document.get(name)) for name in TIMEOUTS)
    ):
        raise DatasetError(
            f"{path} is not an object with filter and ip (text) and {', '.join(TIMEOUTS)} (milliseconds); "
            "correct it, or remove it"
        )
    return {"ip": IP_BEFORE, **document}


def _is_count_or_null(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
