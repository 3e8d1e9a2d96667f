"""Progress: shown to people who watch, and to nobody else."""

from __future__ import annotations

import io

from ml.progress import Terminal


class Watched(io.StringIO):
    """A terminal, which scripts and pipes are not."""

    def isatty(self) -> bool:
        return True


def test_a_pipe_sees_lines_only() -> None:
    """No progress goes where it would be kept."""
    stream = io.StringIO()
    terminal = Terminal(stream)

    terminal.progress("growing", 1, 10)
    terminal.say("done")

    assert stream.getvalue() == "done\n"


def test_a_terminal_sees_how_far_it_is() -> None:
    """The line is taken away before another is written, and when the work is done."""
    stream = Watched()
    terminal = Terminal(stream)

    terminal.progress("growing trees", 5, 20)
    terminal.say("a line")
    terminal.progress("growing trees", 20, 20)

    assert stream.getvalue() == "growing trees: 5 of 20, 25%\r\x1b[Ka line\n"


def test_not_too_often() -> None:
    """Steps that follow each other at once are not all written."""
    stream = Watched()
    terminal = Terminal(stream)

    for done in range(1000):
        terminal.progress("asking", done, 1000)

    assert stream.getvalue().count("asking") < 100
