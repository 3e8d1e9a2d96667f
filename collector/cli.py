"""The command line: wiring only."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from collector.commands import captures, models, transformer, wire
from collector.errors import FlowmlError, UsageError
from collector.messages import log

__all__ = ["app", "main"]

app = typer.Typer(
    name="flowml",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # takes longer than all the rest of `--help`

        typer.echo(f"flowml {version('flowml')}")
        raise typer.Exit


@app.callback()
def flowml(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Recognises which device a TCP connection came from by how it behaved."""


for commands in (wire, captures, models, transformer):
    commands.add_to(app)


def _fill_standard_descriptors() -> None:
    """Puts something in the place of a closed standard stream, or the next file opened would be there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def main() -> None:
    """Runs a command. What the user can mend is one line on standard error and an exit code.

    A standard output whose reader has gone ends it with 1: Typer's doing.
    """
    _fill_standard_descriptors()
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except FlowmlError as error:
        log(f"flowml: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        # The command line's own errors have no common base over Typer's versions, but all have this.
        if not hasattr(error, "format_message"):
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "flowml")
        log(f"flowml: {error.format_message()} See `{command} --help`.")
        code = UsageError.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
