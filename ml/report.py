"""An evaluation on disk: as a page for people and as numbers for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from collector.errors import OutputError
from ml.atomic import replace_all
from ml.contract import Contract
from ml.page import NUMBERS, page

__all__ = ["NUMBERS", "PAGE", "about", "make_folder", "write"]

PAGE = "report.html"


def make_folder(folder: Path) -> None:
    """Makes a report's folder, and those above it.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; name another --report") from error


def about(name: str, contract: Contract | None) -> dict[str, Any]:
    """What a report tells of the model."""
    if contract is None:
        return {"name": name, "contract": None}
    told = (
        "estimator",
        "parameters",
        "filter",
        "ip",
        "timeouts",
        "nan",
        "versions",
        "created",
        "model_sha256",
    )
    return {"name": name, "contract": {member: getattr(contract, member) for member in told}}


def write(folder: Path, title: str, document: dict[str, Any]) -> None:
    """Writes the page and the numbers, both or neither.

    Parameters
    ----------
    title
        Of the page.
    document
        `Evaluation.to_dict`, with `model` (as of `about`), `data`, and for rows held out `split`.

    Raises
    ------
    OutputError
        They cannot be written.
    """
    numbers = orjson.dumps(document, default=repr, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    replace_all([(folder / NUMBERS, numbers), (folder / PAGE, page(title, document).encode())])
