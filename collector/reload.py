"""SIGHUP to a service: its files by now, or the old ones where the new ones are no good."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from typing import TYPE_CHECKING

from collector.errors import FlowmlError
from collector.formatter import Formatter
from collector.records import Needs
from collector.sink import Sink
from collector.watch import Watch

if TYPE_CHECKING:
    from ml.model import ModelFiles

__all__ = ["Reload"]


class Reload:
    """Opens the output by its name again, and loads the model anew. What comes of either is said.

    Parameters
    ----------
    read_model
        Opens and checks the model's files; None where there is no model.
    watch
        Is told of another model.
    kept
        What the programs attached keep of a connection: a model that looks at more is no good.
    """

    def __init__(
        self,
        sink: Sink,
        formatter: Formatter,
        read_model: Callable[[], ModelFiles] | None,
        log: Callable[[str], None],
        watch: Watch,
        kept: Needs,
    ) -> None:
        self._kept = kept
        self._watch = watch
        self._sink = sink
        self._formatter = formatter
        self._read_model = read_model
        self._log = log

    def __call__(self) -> None:
        """Takes as long as loading the model does; the kernel keeps what ends meanwhile."""
        self._output()
        if self._read_model is not None:
            self._model(self._read_model)

    def _output(self) -> None:
        try:
            reopened = self._sink.reopen()
        except OSError as error:
            self._log(
                f"SIGHUP: {self._sink.name} cannot be opened anew by {_me()} ({error.strerror}): "
                f"lines go on into the file that was open; let {_me()} write to it and its folder"
            )
        else:
            if reopened:
                self._log(f"SIGHUP: {self._sink.name} is opened anew")

    def _model(self, read: Callable[[], ModelFiles]) -> None:
        try:
            files = read()
            files.check_kept(self._kept)
            classifier = files.load()
        except FlowmlError as error:
            self._log(f"SIGHUP: the model in use stays: {error}")
            return
        self._formatter.use(classifier)
        self._watch.files = files
        for warning in files.warnings:
            self._log(f"warning: {warning}")
        self._log(f"SIGHUP: {files.path.name} is loaded anew, {len(classifier.labels)} classes")


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
