"""Where the files lie that are not Python: the C core and the settings."""

from __future__ import annotations

from pathlib import Path

__all__ = ["bpf_folder", "configs_folder"]

_HERE = Path(__file__).resolve().parent


def _folder(name: str, file: str) -> Path:
    """In an installed package inside of it; in a checkout beside it."""
    inside = _HERE / name
    return inside if (inside / file).exists() else _HERE.parent / name


def bpf_folder() -> Path:
    """The folder of the C core."""
    return _folder("bpf", "flow.h")


def configs_folder() -> Path:
    """The folder of the settings files."""
    return _folder("configs", "online.toml")
