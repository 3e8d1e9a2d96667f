"""Being told to end, or that the terminal is gone, or that files were changed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

__all__ = ["has_terminal", "stop_signals"]


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, whose loss SIGHUP would be.

    A service has none: what sends it SIGHUP is somebody who wants its files opened anew.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """In its body SIGINT, SIGTERM and SIGHUP end nothing; they make the socket readable.

    One that is ignored, as SIGHUP is under nohup, stays so.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = {}
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, lambda *_: None)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup)
            for signum, handler in before.items():
                signal.signal(signum, handler)
