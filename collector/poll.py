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
    """An epoll over the parts of one run."""

    def __init__(self, stop: socket.socket, backlog: Backlog, sources: Sequence[Source]) -> None:
        self._stop, self._backlog = stop, backlog
        self._poll = select.epoll()
        self._poll.register(stop, select.EPOLLIN)
        self._asked: dict[int, int] = {}
        self._rings = [source.table.ring.fd for source in sources]
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
        self._poll.close()

    def wait(self, timeout_s: float) -> tuple[bytes, bool]:
        """The signals that came, a byte each, and whether the pipe has room. Raises as `Backlog.put`."""
        for ring in self._rings:  # full rings are no news while there is no room for their lines
            self._ask(ring, select.EPOLLIN if self._backlog.has_room else 0)
        if self._pipe is not None:
            self._ask(self._pipe, select.EPOLLOUT if self._backlog.wants_room else 0)
        events = dict(self._poll.poll(timeout_s))
        told = self._stop.recv(_SIGNALS_AT_ONCE) if self._stop.fileno() in events else b""
        pipe = events.get(self._pipe, 0) if self._pipe is not None else 0
        if pipe & (select.EPOLLERR | select.EPOLLHUP):
            self._backlog.reader_has_gone()
        return told, bool(pipe)

    def _ask(self, fd: int, events: int) -> None:
        if self._asked.get(fd) != events:
            (self._poll.modify if fd in self._asked or fd == self._pipe else self._poll.register)(fd, events)
            self._asked[fd] = events
