"""How soon finished connections are looked for again: at once, or a little later where they come quickly."""

from __future__ import annotations

__all__ = ["Pace"]

_REST_S = 0.005
_REST_LEAST_S = 0.001
"""Epoll counts in milliseconds, and rounds up."""
_AT_ONCE = 8
"""Connections that may follow each other without a rest, and one more for each time that one would take."""
_LARGE = 1024
"""Connections in a batch after which there is no rest: a larger one would not cost less a connection."""
_MOST_PER_SECOND = 2e6
"""More connections than end on one core: half a ring has to have room for what comes during a rest."""


class Pace:
    """Rests after a batch where connections end quickly, so that they come together: a batch costs as much as
    a hundred connections in it.

    What comes now and then is taken as it comes. A ring that is too small to be left alone never is.

    Parameters
    ----------
    room
        Connections that the smallest ring holds.
    """

    def __init__(self, room: int) -> None:
        self._rest_s = min(_REST_S, room / 2 / _MOST_PER_SECOND)
        self._last = 0.0
        self._credit = 0.0
        self.rests_until = 0.0
        """Until then the rings are left alone, on the clock that `took` is told."""

    def took(self, connections: int, now: float) -> None:
        """A batch was taken out of the rings: so many connections, one at the least."""
        earned = (now - self._last) / self._rest_s
        self._credit = min(_AT_ONCE, self._credit + earned) - connections
        self._last = now
        if self._credit >= 0:
            return
        self._credit = 0.0
        if connections < _LARGE and self._rest_s >= _REST_LEAST_S:
            self.rests_until = now + self._rest_s
