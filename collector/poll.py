"""What the loop waits for: to be told something, finished connections, room in a pipe."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from collector.backlog import Backlog
from collector.source import Source

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Poll"]

_SIGNALS_AT_ONCE = 4096


class Poll:
    """An epoll over the parts of one run; the rings apart, so that they can be left alone for a while."""

    def __init__(self, stop: socket.socket, backlog: Backlog, sources: Sequence[Source]) -> None:
        self._stop, self._backlog = stop, backlog
        self._poll, self._with_rings = select.epoll(), select.epoll()
        self._poll.register(stop, select.EPOLLIN)
        self._with_rings.register(self._poll, select.EPOLLIN)
        for source in sources:
            self._with_rings.register(source.table.ring.fd, select.EPOLLIN)
        self._asked = 0
        self._pipe = backlog.pipe_fd
        try:
            if self._pipe is not None:
                self._poll.register(self._pipe, 0)  # that nobody reads it any more is told in any case
        except PermissionError:  # a device that is always ready
            self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._with_rings.close()
        self._poll.close()

    def wait(self, timeout_s: float, *, rings: bool) -> tuple[bytes, bool]:
        """The signals that came, a byte each, and whether the pipe has room. Raises as `Backlog.put`.

        With `rings` also until there is something in one of them.
        """
        if self._pipe is not None:
            self._ask(self._pipe, select.EPOLLOUT if self._backlog.wants_room else 0)
        # Full rings are no news while there is no room for their lines.
        if rings and self._backlog.has_room:
            if self._poll.fileno() not in dict(self._with_rings.poll(timeout_s)):
                return b"", False
            timeout_s = 0
        events = dict(self._poll.poll(timeout_s))
        told = self._stop.recv(_SIGNALS_AT_ONCE) if self._stop.fileno() in events else b""
        pipe = events.get(self._pipe, 0) if self._pipe is not None else 0
        if pipe & (select.EPOLLERR | select.EPOLLHUP):
            self._backlog.reader_has_gone()
        return told, bool(pipe)

    def _ask(self, pipe: int, events: int) -> None:
        if self._asked != events:
            self._poll.modify(pipe, events)
            self._asked = events
