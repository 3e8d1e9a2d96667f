"""The manual page, made from the help texts.

python -m collector.manual > packaging/flowml.1
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from typing import Any

import typer

from collector import config
from collector.commands import app_for

__all__ = ["page"]

_HEAD = """\
.\\" Made by collector/manual.py from the help texts: change those.
.TH FLOWML 1 "" "flowml {version}" "User Commands"
.SH NAME
flowml \\- {summary}
.SH SYNOPSIS
.B flowml
.I COMMAND
.RI [ OPTION ]...
.RI [ ARGUMENT ]...
"""

_COMPLETION = """\
.SH COMPLETION
.B flowml \\-\\-install\\-completion
has the shell complete commands, options, their values and interfaces;
.B flowml \\-\\-show\\-completion
shows what that would put where.
"""

_EXIT_CODES = (
    ("0", "it ended as it should, by a signal too"),
    ("1", "something was found that is not as it should be (check, verify), or a program error"),
    ("2", "a command line or a setting that makes no sense"),
    (
        "3",
        "a file that cannot be read or understood, or that is not trusted: a model, training data, a capture",
    ),
    ("4", "an output that cannot be written"),
    ("5", "rights that are missing, or that could not be given up"),
    ("6", "an interface that is not there, not fit, taken, or that went away"),
    ("7", "the kernel or the compiler refused"),
)


def page() -> str:
    """The page, as roff."""
    program: Any = typer.main.get_command(app_for([]))
    summary = " ".join(program.help.split()).rstrip(".")
    parts = [_HEAD.format(version=version("flowml"), summary=_roff(summary[0].lower() + summary[1:]))]
    parts += [
        ".SH OPTIONS\n",
        *(_entry(entry) for entry in program.params if entry.name == "show_version"),
        ".SH COMMANDS\n",
    ]
    for name, command in program.commands.items():
        parts.append(f".SS flowml {_roff(name)}\n")
        parts += [
            f"{'.PP' if i else ''}\n{_roff(text)}\n".lstrip() for i, text in enumerate(_texts(command.help))
        ]
        parts += [_entry(entry) for entry in command.params if not getattr(entry, "hidden", False)]
    parts.append(".SH SETTINGS\nA file for\n.B \\-\\-config\nhas these sections and keys.\n")
    for option in config.OPTIONS:
        unit = f"{option.unit}: " if option.unit else ""
        parts.append(
            f".TP\n\\fB{_roff(f'[{option.section}] {option.name}')}\\fR\n{_roff(unit + option.meaning)}\n"
        )
    parts.append(_COMPLETION)
    parts.append(".SH EXIT STATUS\n")
    parts += [f".TP\n\\fB{code}\\fR\n{_roff(meaning)}\n" for code, meaning in _EXIT_CODES]
    return "".join(parts)


def _texts(help: str) -> list[str]:
    """A help text as paragraphs."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", help.strip())]


def _entry(entry: Any) -> str:
    """An option or an argument: how it is written, and its help."""
    metavar = entry.metavar or entry.name.upper()
    if entry.param_type_name == "argument":
        head = f"\\fI{_roff(metavar)}\\fR"
    else:
        takes_value = not entry.is_flag
        head = ", ".join(f"\\fB{_roff(word)}\\fR" for word in (*entry.opts, *entry.secondary_opts))
        head += f" \\fI{_roff(metavar)}\\fR" if takes_value else ""
    text = " ".join((entry.help or "").split())
    if getattr(entry, "show_default", False) and isinstance(entry.default, (int, float, str)):
        text += f" (default {entry.default})" if entry.default is not False else ""
    return f".TP\n{head}\n{_roff(text)}\n"


def _roff(text: str) -> str:
    """Text as roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return "\\&" + text if text.startswith(".") else text


if __name__ == "__main__":
    sys.stdout.write(page())
