"""Beside lines that models are trained on stands how they were made, for all of them alike."""

from __future__ import annotations

import json
from pathlib import Path

from collector import privileges
from collector.config import Settings
from collector.errors import InputError
from collector.sink import STANDARD_OUTPUT
from ml.origin import IP_BEFORE, origin_path

__all__ = ["check_origin", "write_origin"]


def _origin(settings: Settings) -> dict[str, object]:
    return {"filter": settings.filter, "ip": settings.ip, **settings.timeouts}


def check_origin(settings: Settings) -> None:
    """Makes sure that what is in the training data already was made as these settings make it.

    Raises
    ------
    InputError
        It was made with other settings, or nothing beside the file says with which.
    """
    data, path = Path(settings.outfile), origin_path(Path(settings.outfile))
    try:
        with privileges.as_caller():
            if settings.outfile == STANDARD_OUTPUT or not data.is_file() or not data.stat().st_size:
                return
            before = json.loads(path.read_bytes())
            if isinstance(before, dict):
                before.setdefault("ip", IP_BEFORE)
    except FileNotFoundError as error:
        raise InputError(
            f"{data} holds lines already, and no {path.name} beside it says how they were made: "
            "name another --outfile"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be understood ({error}): name another --outfile") from error
    if before != _origin(settings):
        raise InputError(
            f"{data} holds connections collected with other settings ({path}): name another --outfile"
        )


def write_origin(settings: Settings) -> None:
    """Writes down beside training data how it is made, for the model's contract: before its first line."""
    data = Path(settings.outfile)
    with privileges.as_caller():
        if settings.outfile != STANDARD_OUTPUT and data.is_file() and not data.stat().st_size:
            from ml.atomic import replace_all  # takes longer to import than to run

            replace_all([(origin_path(data), json.dumps(_origin(settings)).encode() + b"\n")])
