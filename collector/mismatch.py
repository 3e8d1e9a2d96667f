"""Alerts: a connection whose source MAC the model knows, and takes for another device.

Either somebody took over a MAC, or the model is wrong; how sure it has to be is the user's to say.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import orjson

from collector.lines import Origin, Predictions, record_lines
from collector.observer import Observer
from collector.printable import printable
from collector.records import Rows

__all__ = ["Mismatches", "known_macs"]

SHOWN = 20
"""Alerts that are shown in a window of `WINDOW_S` seconds; the others are counted."""
WINDOW_S = 60.0

_MAC = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", re.IGNORECASE)
_MAC_WEIGHTS = 1 << (8 * np.arange(5, -1, -1, dtype=np.uint64))


def known_macs(labels: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
    """Which of the labels are MACs.

    Returns
    -------
    The MACs as numbers, ascending, shape (n_macs,); and the class of each, an index into `labels`.
    """
    found = [
        (int(re.sub("[:-]", "", label), 16), index)
        for index, label in enumerate(labels)
        if _MAC.fullmatch(label)
    ]
    found.sort()
    macs = np.array([mac for mac, _ in found], np.uint64)
    return macs, np.array([index for _, index in found], np.intp)


class Mismatches(Observer):
    """Marks connections whose observed `s_mac` is a label, but not the one that was predicted.

    Parameters
    ----------
    probability
        What the predicted label must have at the least.
    say
        Shows one line.
    clock
        Seconds, never going back.
    """

    def __init__(
        self, probability: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count = 0
        self._probability = probability
        self._say = say
        self._clock = clock
        self._labels: Sequence[str] = ()
        self._macs, self._classes = known_macs(())
        self._window_begin = clock()
        self._shown = self._hidden = 0

    def predicted(self, rows: Rows, origin: Origin, predictions: Predictions, took_s: float) -> None:
        if predictions.labels is not self._labels:  # the first batch, or another model
            self._labels = predictions.labels
            self._macs, self._classes = known_macs(self._labels)
        found = np.flatnonzero(self._are_mismatches(rows, predictions))
        self.count += len(found)
        self.turned()
        shown = found[: max(0, SHOWN - self._shown)]
        self._shown += len(shown)
        self._hidden += len(found) - len(shown)
        chosen = Predictions(predictions.labels, predictions.classes[shown], predictions.probabilities[shown])
        for line in record_lines(rows[shown], origin, predictions=chosen).splitlines():
            self._say(_alert(orjson.loads(line)))

    def turned(self) -> None:
        """Says, once the window is over, how many alerts were not shown in it."""
        if self._clock() - self._window_begin >= WINDOW_S:
            self.close()

    def close(self, *_: object) -> None:
        """Says how many alerts were not shown."""
        if self._hidden:
            self._say(f"mismatch: {self._hidden} more, not shown: {SHOWN} a minute are")
        self._window_begin, self._shown, self._hidden = self._clock(), 0, 0

    def _are_mismatches(self, rows: Rows, predictions: Predictions) -> npt.NDArray[np.bool_]:
        if not len(self._macs):
            return np.zeros(len(rows), np.bool_)
        observed = rows["source_mac"].astype(np.uint64) @ _MAC_WEIGHTS
        places = np.minimum(np.searchsorted(self._macs, observed), len(self._macs) - 1)
        is_known = (self._macs[places] == observed) & (rows["no_mac"] == 0)
        is_other = self._classes[places] != predictions.classes
        mismatch: npt.NDArray[np.bool_] = (
            is_known & is_other & (predictions.probabilities >= self._probability)
        )
        return mismatch


def _alert(record: dict[str, object]) -> str:
    ends = [f"{_in_brackets(record[f'{side}_ip'])}:{record[f'{side}_port']}" for side in ("src", "dst")]
    return printable(
        f"mismatch: {record['s_mac']} on {record['iface']} behaves like {record['label']} "
        f"(probability {record['probability']:.3f}): {' > '.join(ends)}, {record['start']}"
    )


def _in_brackets(address: object) -> str:
    return f"[{address}]" if ":" in str(address) else str(address)
