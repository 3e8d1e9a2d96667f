"""The last connections of each device, oldest first: what a model with a memory looks at.

In training data a device is its label, in a capture; the rows of a capture are in the order of their starts
where every row says when it started, else in that of the file. Live, a device is the source MAC that was
observed, on an interface, and connections are in the order in which they end. Before its first connection a
window is filled with rows of which nothing is defined.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from collector.features import NAMES
from ml.dataset import Dataset

__all__ = ["ABSENT", "SENDERS", "Memory", "histories", "in_time"]

ABSENT = -1
"""In place of a row's index: there was none."""

SENDERS = 65_536
"""So many devices are remembered; who makes up MACs cannot fill the memory with them."""

Rows = npt.NDArray[np.float32]


def in_time(data: Dataset) -> npt.NDArray[np.intp]:
    """Indices of the rows in order of their starts; if one does not say when it started, as in the file."""
    if np.isnat(data.start).any():
        return np.arange(len(data))
    return np.argsort(data.start, kind="stable")


def histories(data: Dataset, length: int) -> npt.NDArray[np.intp]:
    """For each row the last rows of the same device in the same capture up to itself.

    Returns
    -------
    Shape (n_rows, length), row indices, oldest first, the row itself last; `ABSENT` before the first.
    """
    n, order = len(data), in_time(data)
    order = order[np.lexsort((data.y[order], data.captures[order]))]
    group = np.stack([data.captures[order], data.y[order]])
    begins = np.flatnonzero(np.any(np.diff(group, axis=1, prepend=group[:, :1] - 1), axis=0))
    place = np.arange(n)
    since = place - np.repeat(begins, np.diff(begins, append=n))
    back = np.arange(length - 1, -1, -1)
    found = np.empty((n, length), dtype=np.intp)
    found[order] = np.where(back <= since[:, None], order[np.maximum(place[:, None] - back, 0)], ABSENT)
    return found


class Memory:
    """The last rows of each device, as they come in.

    Parameters
    ----------
    length
        Of a window, in rows.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._windows: dict[Hashable, Rows] = {}

    def windows(self, X: npt.NDArray[np.float64], senders: Sequence[Hashable]) -> Rows:
        """Takes rows in; answers the window that each is the last of, shape (n_rows, length, 17).

        Parameters
        ----------
        X
            Shape (n_rows, 17), in order of time.
        senders
            Which device each row is of. The one that has been silent for longest is forgotten when there
            are more than `SENDERS`.
        """
        found = np.empty((len(X), self._length, len(NAMES)), np.float32)
        for i, sender in enumerate(senders):
            window = self._windows.pop(sender, None)  # and back in, last: the first is the longest silent
            if window is None:
                window = np.full((self._length, len(NAMES)), np.nan, np.float32)
                if len(self._windows) >= SENDERS:
                    del self._windows[next(iter(self._windows))]
            window[:-1] = window[1:]
            window[-1] = X[i]
            found[i] = window
            self._windows[sender] = window
        return found

    def forget(self) -> None:
        """Every row to come is the first of its device."""
        self._windows.clear()
