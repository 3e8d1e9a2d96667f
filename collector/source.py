"""One interface with its flow table, while it is attached to: whether anything can still come from it."""

from __future__ import annotations

from collections.abc import Iterator

from collector.drain import FlowTable
from collector.hooks import Attachment

__all__ = ["Source"]


class Source:
    """One interface with its flow table, from attached to drained."""

    def __init__(self, hooks: Attachment, table: FlowTable) -> None:
        self.hooks = hooks
        self.table = table
        self.name = hooks.interface.name
        """As it was called when it was attached to: lines go on with that."""
        self.open = True
        """False once nothing is left in the table."""
        self.leaving = False
        """Whether it is detached, and being emptied."""
        self.is_behind = False
        """Whether the last sweep filled the ring: more may wait in the table, for the next."""
        self._said = self._state()

    def loss(self) -> str:
        """Why nothing more can ever come from here; empty while something can."""
        if not self.hooks.is_alive():
            return f"{self.name} has gone"
        if not self.hooks.interface.is_present():
            return f"{self.name} was moved to another network namespace"
        return ""

    def _state(self) -> tuple[str, str]:
        return self.hooks.interface.impediment(), self.hooks.interface.current_name() or self.name

    def news(self) -> Iterator[str]:
        """What has changed since it was last asked, and does not end it."""
        before, (impediment, name) = self._said, self._state()
        self._said = impediment, name
        if impediment != before[0]:
            yield f"{self.name} {impediment or 'is up'}"
        if name != before[1]:
            yield f"{self.name} is called {name} by now: in lines it stays {self.name}"
