"""Rows to lines: features, what a classifier says of them, JSON. The same for the wire and for captures."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from collector.features import matrix
from collector.lines import Origin, Predictions, label_lines, record_lines
from collector.observer import Observer
from collector.records import Rows
from ml.classifier import Classifier, Sequential

__all__ = ["Formatter", "ask"]


def ask(
    classifier: Classifier, X: npt.NDArray[np.float64], senders: Callable[[], Sequence[Hashable]]
) -> Predictions:
    """What a classifier says of rows; one that looks at the connections before is told whose each row is."""
    if isinstance(classifier, Sequential):
        return Predictions(classifier.labels, *classifier.predict_in_turn(X, senders()))
    return Predictions(classifier.labels, *classifier.predict(X))


class Formatter:
    """Rows to lines: with or without a classifier, as label or as record."""

    def __init__(
        self,
        classifier: Classifier | None,
        *,
        as_record: bool,
        with_features: bool,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._classifier: Classifier | None = None
        if classifier is not None:
            self.use(classifier)
        self._observers = observers
        self._as_record = as_record
        self._with_features = with_features

    def use(self, classifier: Classifier) -> None:
        """From now on this one is asked."""
        if isinstance(classifier, Sequential):
            classifier.forget()
        self._classifier = classifier

    def lines(self, rows: Rows, origin: Origin) -> bytes:
        """One line a flow, in the order of the rows."""
        if self._classifier is None:
            return record_lines(rows, origin, matrix=matrix(rows) if self._with_features else None)
        X = matrix(rows)
        begin = time.monotonic()
        predictions = ask(self._classifier, X, lambda: _senders(rows, origin))
        took_s = time.monotonic() - begin
        for observer in self._observers:
            observer.predicted(rows, origin, predictions, took_s)
        if not self._as_record:
            return label_lines(predictions)
        return record_lines(rows, origin, matrix=X if self._with_features else None, predictions=predictions)


def _senders(rows: Rows, origin: Origin) -> list[Hashable]:
    where = origin.iface or origin.capture
    return [(where, mac.tobytes()) for mac in rows["source_mac"]]
