"""Text from outside, made fit for a terminal and for UTF-8."""

from __future__ import annotations

__all__ = ["printable"]

_REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """The text with U+FFFD for whatever would steer a terminal or is not Unicode.

    Labels come from a file, and a name of an interface may hold any byte but a space and a slash.

    >>> printable("cam\\x1b[2Jera")
    'cam\ufffd[2Jera'
    """
    return "".join(sign if sign.isprintable() else _REPLACEMENT for sign in text)
