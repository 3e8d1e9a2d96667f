"""The command line's commands: wiring only. Heavy imports live inside of them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated

import typer

__all__ = ["app_for"]

_MODULES = {
    "wire": ("attach", "collect", "check"),
    "captures": ("extract", "predict", "verify"),
    "models": ("train", "evaluate"),
    "transformer": ("train-transformer", "run-transformer"),
}
"""Where each command is, in the order of the help."""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # takes longer than all the rest of `--help`

        typer.echo(f"flowml {version('flowml')}")
        raise typer.Exit


def flowml(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Recognises which device a TCP connection came from by how it behaved."""


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command line, of which only what these arguments need is made: all takes a tenth of a start."""
    app = typer.Typer(name="flowml", pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(flowml)
    named = [module for module, commands in _MODULES.items() if arguments and arguments[0] in commands]
    for module in named or _MODULES:
        importlib.import_module(f"collector.commands.{module}").add_to(app)
    return app
