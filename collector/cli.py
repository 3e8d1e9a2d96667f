"""The command line: how it starts and ends."""

from __future__ import annotations

import gc
import os
import sys

from collector.errors import FlowmlError, UsageError
from collector.messages import log

__all__ = ["main", "prepare"]

_GARBAGE_AFTER = 50_000
"""New objects before Python looks for cycles among them, 700 by itself. Imports make tens of thousands, which
all stay."""


def _fill_standard_descriptors() -> None:
    """Puts something in the place of a closed standard stream, or the next file opened would be there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def prepare() -> None:
    """Spares the imports that follow what nobody needs."""
    gc.set_threshold(_GARBAGE_AFTER)
    # numpy's library for matrices starts a thread for each processor, which looks for work until it sleeps.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """Runs a command. What the user can mend is one line on standard error and an exit code.

    A standard output whose reader has gone ends it with 1: Typer's doing.
    """
    prepare()
    _fill_standard_descriptors()
    arguments = sys.argv[1:] or ["--help"]
    try:
        from collector.commands import app_for

        code = app_for(arguments)(arguments, standalone_mode=False)
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
    gc.freeze()  # Python would look at everything once more before it ends
    sys.exit(code)


if __name__ == "__main__":
    main()
