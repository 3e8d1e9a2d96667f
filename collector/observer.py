"""The seam between the loop and whoever looks on: metrics, the live view, alerts."""

from __future__ import annotations

from collector.lines import Origin, Predictions
from collector.records import Rows

__all__ = ["Observer"]


class Observer:
    """Is told by the loop, in its thread, what it has done; here nothing comes of it.

    What is done with it delays the loop, so it has to be short and may not wait.
    """

    def predicted(self, rows: Rows, origin: Origin, predictions: Predictions, took_s: float) -> None:
        """The classifier has answered for these rows, in `took_s` seconds."""

    def written(self, name: str, rows: Rows, took_s: float) -> None:
        """The lines of these rows are with the sink; from the ring to there it took `took_s` seconds.

        `name` is that of the interface.
        """

    def swept(self, name: str, took_s: float) -> None:
        """The flow table of the interface was swept for timeouts in `took_s` seconds."""

    def turned(self) -> None:
        """The loop has gone round: after every batch, and at least once a sweep."""
