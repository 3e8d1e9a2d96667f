"""Who looks on while a run goes: metrics, the live view or status lines, alerts; as the settings say."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from collector.activity import Activity
from collector.config import Settings
from collector.mismatch import Mismatches, known_macs
from collector.observer import Observer
from collector.sink import Sink
from collector.source import Source
from collector.status import StatusLines

if TYPE_CHECKING:
    from ml.model import ModelFiles

__all__ = ["Watch"]


class Watch:
    """Made while there are still rights: the port is bound, and what will be needed is imported.

    Attributes
    ----------
    files
        The model that answers, if there is one; set anew when another takes its place.

    Raises
    ------
    ConfigError
        The port of the metrics cannot be had.
    """

    def __init__(self, settings: Settings, files: ModelFiles | None) -> None:
        self.files = files
        self._settings = settings
        self._endpoint = None
        if settings.metrics:
            from collector.metrics import Endpoint

            self._endpoint = Endpoint(settings.metrics)
        self._has_view = False
        if not settings.quiet and sys.stderr is not None and sys.stderr.isatty():
            from collector import view

            self._has_view = view.is_possible(settings.outfile)
            view.warm_up()

    @contextlib.contextmanager
    def over(
        self, sources: Sequence[Source], sink: Sink, labels: Sequence[str], log: Callable[[str], None]
    ) -> Iterator[list[Observer]]:
        """In its body they look on; those that the loop has to tell are given.

        Rights are gone by now. The sources have to outlive it.

        Parameters
        ----------
        labels
            Of the model; none if there is none.
        """
        settings = self._settings
        activity = Activity(sources)
        observers: list[Observer] = [activity]
        with contextlib.ExitStack() as stack:
            stack.callback(activity.close)
            mismatches = None
            if settings.alert_mismatch and self.files is not None:
                if not len(known_macs(labels)[0]):
                    log("warning: no label of the model is a MAC: --alert-mismatch has nothing to compare")
                mismatches = Mismatches(settings.alert_probability, log)
                observers.append(mismatches)
                stack.callback(mismatches.close)
            if self._endpoint is not None:
                from collector.metrics import Metrics

                self._endpoint.serve(Metrics(activity, sink, mismatches, self._model))
                log(f"metrics at {self._endpoint.url}")
            if self._has_view:
                from collector.view import live_view

                stack.enter_context(live_view(activity, self._title()))
            elif settings.status_interval and not settings.quiet:
                observers.append(StatusLines(activity, settings.status_interval, log))
            yield observers

    def _title(self) -> str:
        return "flowml collect" if self.files is None else f"flowml attach, {self.files.path.name}"

    def _model(self) -> dict[str, str]:
        """Which model answers; empty without one."""
        if self.files is None:
            return {}
        found = {"file": self.files.path.name}
        if (contract := self.files.contract) is not None:
            found |= {
                "sha256": contract.model_sha256,
                "estimator": contract.estimator,
                "classes": str(len(contract.classes)),
                "filter": str(contract.filter),
            }
        return found
