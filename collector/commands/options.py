"""What several commands have in common: their options."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from collector import config

__all__ = [
    "AlertMismatch",
    "AlertProbability",
    "Config",
    "Direction",
    "Duration",
    "Egress",
    "Features",
    "Filter",
    "Force",
    "Format",
    "Interfaces",
    "Ip",
    "LabelsFile",
    "MaxConnections",
    "Metrics",
    "Model",
    "Outfile",
    "Quiet",
    "SkipBad",
    "StatusInterval",
    "User",
    "Xdp",
    "interface_names",
]


def _help(name: str) -> str:
    entry = config.option(name)
    unit = f"{entry.unit}: " if entry.unit else ""
    choices = f" [{'|'.join(entry.choices)}]" if entry.choices else ""
    default = f" (default {entry.default})" if entry.default not in ("", False) else ""
    meaning = entry.meaning.removeprefix("true: ")  # a flag that is given
    return f"{unit}{meaning}{choices}{default}"


def _flag(name: str, metavar: str) -> typer.models.OptionInfo:
    """A flag of an option's name; not given is None, so that the settings file can tell."""
    choices = list(config.option(name).choices)
    info: typer.models.OptionInfo = typer.Option(
        f"--{name.replace('_', '-')}",
        help=_help(name),
        metavar=metavar,
        show_default=False,
        autocompletion=(lambda: choices) if choices else None,
    )
    return info


def interface_names() -> list[str]:
    """The interfaces of this machine, for a shell that completes them."""
    return [name for _, name in socket.if_nameindex()]


Interfaces = Annotated[
    list[str],
    typer.Argument(
        help="network interfaces",
        metavar="IFACE...",
        show_default=False,
        autocompletion=interface_names,
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="settings file (TOML)", metavar="FILE", show_default=False)
]
Direction = Annotated[str | None, _flag("direction", "DIRECTION")]
Filter = Annotated[str | None, _flag("filter", "FILTER")]
Ip = Annotated[str | None, _flag("ip", "VERSION")]
MaxConnections = Annotated[int | None, _flag("max_connections", "N")]
Duration = Annotated[int | None, _flag("duration", "SECONDS")]
User = Annotated[str | None, _flag("user", "NAME")]
Xdp = Annotated[str | None, _flag("xdp", "MODE")]
Egress = Annotated[str | None, _flag("egress", "HOOK")]
Force = Annotated[
    bool,
    typer.Option("--force", help="go on with a model that is for other features, filter, ip or timeouts"),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="go on even if many rows are unusable")]


Model = Annotated[str | None, _flag("model", "FILE")]
LabelsFile = Annotated[str | None, _flag("labels_file", "FILE")]
Format = Annotated[str | None, _flag("format", "FORMAT")]
Features = Annotated[bool | None, typer.Option("--features", help=_help("features"), show_default=False)]
Outfile = Annotated[str | None, _flag("outfile", "FILE")]
Metrics = Annotated[str | None, _flag("metrics", "ADDR:PORT")]
StatusInterval = Annotated[int | None, _flag("status_interval", "SECONDS")]
Quiet = Annotated[bool | None, typer.Option("--quiet", help=_help("quiet"), show_default=False)]
AlertMismatch = Annotated[
    bool | None, typer.Option("--alert-mismatch", help=_help("alert_mismatch"), show_default=False)
]
AlertProbability = Annotated[float | None, _flag("alert_probability", "SHARE")]
