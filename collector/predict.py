"""`flowml predict`, whole: captures, or rows of features that were extracted before, to labels."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from collector.captures import STANDARD_INPUT, Outcome, Source, lines_of, open_input, wait_for_input
from collector.config import Settings
from collector.errors import InputError
from collector.features import NAMES
from collector.formatter import Formatter, ask
from collector.lines import label_lines
from collector.messages import log
from collector.offline import check_names, finished, gather, limits_of, open_outfile, total_size
from collector.progress import Advance, progress
from collector.replay import Limits
from collector.signals import stop_signals
from collector.sink import Sink
from ml import dataset, origin
from ml.classifier import Classifier, Sequential
from ml.model import ModelFiles

__all__ = ["predict", "settings_of"]

_HEAD = 4096
_ROWS_AT_ONCE = 4096
_CAPTURE_MAGICS = (
    bytes.fromhex("a1b2c3d4"),
    bytes.fromhex("d4c3b2a1"),
    bytes.fromhex("a1b23c4d"),
    bytes.fromhex("4d3cb2a1"),
    bytes.fromhex("0a0d0d0a"),  # pcapng, which begins with what is white space in JSON
)


def settings_of(files: ModelFiles, settings: Settings, *, given: Sequence[str]) -> Settings:
    """The settings, but of those that were not given, what the model was trained with.

    Raises
    ------
    ModelError
        One that was given differs from what the model was trained with.
    """
    contract = files.contract
    if contract is not None:
        trained = {"filter": contract.filter, "ip": contract.ip, **contract.timeouts}
        known = {name: value for name, value in trained.items() if value is not None and name not in given}
        settings = settings._replace(**known)  # type: ignore[arg-type]
    files.check(filter=settings.filter, ip=settings.ip, timeouts=settings.timeouts)
    return settings


def predict(inputs: Sequence[str], files: ModelFiles, settings: Settings) -> int:
    """Writes the label of every connection of the inputs; answers the exit code.

    An input that cannot be read to its end is told of, and the next one is read.
    """
    check_names(inputs, settings.outfile)
    classifier = files.load()
    for warning in files.warnings:
        log(f"warning: {warning}")
    limits = limits_of(settings)
    with open_outfile(settings.outfile) as sink, stop_signals() as stop:
        with progress("predict", total_size(inputs)) as advance:
            run = _Run(classifier, files, settings, limits, sink, stop, advance)
            total, failed = gather(run.each(inputs))
        return finished(total, sink.written, failed=failed, tls_only=limits.tls_only)


@dataclass(frozen=True, slots=True)
class _Run:
    """What is the same for each input."""

    classifier: Classifier
    files: ModelFiles
    settings: Settings
    limits: Limits
    sink: Sink
    stop: socket.socket
    advance: Advance

    def each(self, names: Sequence[str]) -> Iterator[Outcome]:
        """Predicts for one input after the other, until reading is to end."""
        for name in names:
            outcome = self.one(name)
            yield outcome
            if outcome.stopped:
                return

    def one(self, name: str) -> Outcome:
        """Predicts for one input, whatever it is."""
        try:
            fd = open_input(name, stoppable=True)
        except InputError as error:
            return Outcome(trouble=str(error))
        with os.fdopen(fd, "rb", buffering=0) as file:
            if not self._wait_for(file):
                return Outcome(stopped=True)
            try:
                head = file.read(_HEAD) or b""
            except OSError as error:
                return Outcome(trouble=f"{name} cannot be read: {error.strerror}")
            if _are_rows(head):
                return self._rows(name, head, file)
            formatter = Formatter(
                self.classifier,
                as_record=self.settings.format == "record",
                with_features=self.settings.features,
            )
            source = Source(name, file.fileno(), head)
            return lines_of(source, self.limits, formatter, self.sink.write, self.stop.fileno(), self.advance)

    def _rows(self, name: str, head: bytes, file: BinaryIO) -> Outcome:
        outcome = Outcome()
        if isinstance(self.classifier, Sequential):
            self.classifier.forget()
        self._check_origin(name)
        lines = enumerate(self._lines(head, file), 1)
        while not outcome.trouble and (part := list(islice(lines, _ROWS_AT_ONCE))):
            documents: list[dict[str, Any]] = []
            features: list[list[float]] = []
            for number, line in part:
                self.advance(len(line))
                if not line.strip():
                    continue
                try:
                    document, values = dataset.row_features(line)
                except dataset.UnusableError as error:
                    outcome.trouble = (
                        f"{name} line {number}: {error}; the {number - 1} lines before it are done: "
                        "correct it, or leave it out"
                    )
                    break
                documents.append(document)
                features.append(values)
            if documents:
                self._write(documents, features)
        outcome.stopped = bool(select.select([self.stop], [], [], 0)[0])
        return outcome

    def _wait_for(self, file: BinaryIO) -> bool:
        return wait_for_input(file.fileno(), self.stop.fileno())

    def _lines(self, head: bytes, file: BinaryIO) -> Iterator[bytes]:
        """The lines of a file of which `head` was read already; whole ones only if it is stopped."""
        part = head
        rest = b""
        while part:
            *whole, rest = (rest + part).split(b"\n")
            yield from (line + b"\n" for line in whole)
            if not self._wait_for(file):
                return
            part = file.read(1 << 20)
        if rest:
            yield rest

    def _write(self, documents: list[dict[str, Any]], features: list[list[float]]) -> None:
        X = np.array(features, np.float64)
        found = ask(self.classifier, X, lambda: [_sender(document) for document in documents])
        if self.settings.format == "label":
            self.sink.write(label_lines(found), len(documents))
            return
        lines = []
        for i, document in enumerate(documents):
            record = {key: value for key, value in document.items() if key not in _NOT_CARRIED}
            record["label"] = found.labels[found.classes[i]]
            record["probability"] = float(found.probabilities[i])
            if self.settings.features:
                record.update(zip(NAMES, features[i], strict=True))
            lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self.sink.write(b"".join(lines), len(lines))

    def _check_origin(self, name: str) -> None:
        """Rows tell by the file beside them how they were made; if that differs, the model is refused."""
        if self.files.contract is None or name == STANDARD_INPUT:
            return
        made = origin.read([Path(name)])
        if made.unknown():
            log(f"warning: {name} does not say how it was made ({origin.origin_path(Path(name)).name})")
        else:
            said = len(self.files.warnings)
            self.files.check(filter=made.filter, ip=made.ip, timeouts=made.timeouts)
            for warning in self.files.warnings[said:]:
                log(f"warning: {warning}")


def _sender(document: dict[str, Any]) -> tuple[str, str]:
    """What of a row tells its device: values of any kind, as they are written."""
    return repr(document.get("capture")), repr(document.get("s_mac"))


_NOT_CARRIED = {*NAMES, "fts", "label", "probability"}
"""Of a row, what its record does not hold, or holds anew."""


def _are_rows(head: bytes) -> bool:
    return not head.startswith(_CAPTURE_MAGICS) and head.lstrip().startswith(b"{")
