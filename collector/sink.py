"""Rows to lines of JSON, and lines to a file that may fill up.

A line is complete in the file or not there at all, and a line that cannot be written is kept: the sink
tells how many there are, and puts them aside where there is room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import inet_ntoa, socket
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from collector import privileges, records
from collector.errors import OutputError
from collector.features import NAMES
from collector.records import Reason, Rows

__all__ = ["Predictions", "Sink", "label_lines", "open_sink", "record_lines"]

STANDARD_OUTPUT = "-"
STOPPED_PATIENCE_S = 2

_LOOK_AROUND_MS = 100
_PIPE_BUF = 4096  # what poll(2) promises room for


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the classifier said of a batch: each of shape (n_flows,)."""

    labels: Sequence[str]
    """Label of each class."""
    classes: npt.NDArray[np.intp]
    """Index into `labels`."""
    probabilities: npt.NDArray[np.float64]


def label_lines(predictions: Predictions) -> list[bytes]:
    """One JSON string a flow: the label."""
    encoded = [orjson.dumps(label) + b"\n" for label in predictions.labels]
    return [encoded[index] for index in predictions.classes]


def record_lines(
    rows: Rows,
    *,
    iface: str,
    wall_clock_ns: int,
    matrix: npt.NDArray[np.float64] | None = None,
    predictions: Predictions | None = None,
) -> list[bytes]:
    """One JSON object a flow.

    Parameters
    ----------
    wall_clock_ns
        What to add to the clock of the rows to get nanoseconds since 1970, UTC.
    matrix
        The features to write, shape (n_flows, 17); none if None. NaN becomes null.
    predictions
        The labels to write; none if None.
    """
    start = rows["side"][:, records.ORIGINATOR]["first_ns"].astype(np.int64) + wall_clock_ns
    stamps = np.datetime_as_string(start.astype("datetime64[ns]"), unit="ns")
    source, source_port, destination, destination_port = records.endpoints(rows)
    macs = rows["source_mac"].tobytes()
    columns = zip(
        stamps.tolist(),
        source.tobytes().hex(" ", 4).split(),
        source_port.tolist(),
        destination.tobytes().hex(" ", 4).split(),
        destination_port.tolist(),
        macs.hex(" ", 6).split(),
        records.is_tls(rows).tolist(),
        rows["reason"].tolist(),
        strict=True,
    )
    lines = []
    reasons = {reason.value: reason.name.lower() for reason in Reason}
    features = None if matrix is None else matrix.tolist()
    for i, (stamp, saddr, sport, daddr, dport, mac, tls, reason) in enumerate(columns):
        record: dict[str, Any] = {
            "start": stamp + "Z",
            "iface": iface,
            "src_ip": inet_ntoa(bytes.fromhex(saddr)),
            "src_port": sport,
            "dst_ip": inet_ntoa(bytes.fromhex(daddr)),
            "dst_port": dport,
            "s_mac": ":".join([mac[0:2], mac[2:4], mac[4:6], mac[6:8], mac[8:10], mac[10:12]]),
            "tls": tls,
            "reason": reasons[reason],
        }
        if predictions is not None:
            record["label"] = predictions.labels[predictions.classes[i]]
            record["probability"] = float(predictions.probabilities[i])
        if features is not None:
            record.update(zip(NAMES, features[i], strict=True))
        lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    return lines


class Sink:
    """A file, or a pipe, that lines are appended to."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.stop: socket | None = None
        """Readable once the run is to end."""
        self.name = name
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._waiting: list[bytes] = []
        self._failed = False
        self.written = 0
        """Lines that are in the file, whole."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Appends lines, each whole or not at all.

        Raises
        ------
        OutputError
            No room, or no reader: once. From then on lines are only kept, so that what is still to come
            can be taken to its end; `rescue` puts them where there is room.
        """
        self._waiting.extend(lines)
        if self._failed or not self._waiting:
            return
        try:
            self._append()
        except OSError as error:
            self._failed = True
            raise OutputError(f"{self.name}: {error.strerror} after {self.written} lines") from error

    def _append(self) -> None:
        data = memoryview(b"".join(self._waiting))
        sent = 0
        try:
            while sent < len(data):
                self._wait_for_room()
                sent += os.write(self._fd, data[sent:] if self._regular else data[sent : sent + _PIPE_BUF])
        finally:
            self._settle(sent)

    def _wait_for_room(self) -> None:
        """A pipe whose reader is slow is waited for; once stopped, for `STOPPED_PATIENCE_S` at most."""
        if self._regular or self.stop is None:
            return
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        while not room.poll(_LOOK_AROUND_MS):
            if select.select([self.stop], [], [], 0)[0]:
                if not room.poll(1000 * STOPPED_PATIENCE_S):
                    raise OSError(errno.EAGAIN, "nobody reads it")
                return

    def _settle(self, sent: int) -> None:
        """After `sent` bytes: what was written whole is done with, half a line is taken back."""
        whole = 0
        for line in self._waiting:
            if sent < len(line):
                break
            sent -= len(line)
            whole += 1
        self.written += whole
        del self._waiting[:whole]
        if sent and self._regular:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - sent)

    def rescue(self) -> str:
        """After a failure: puts what is still to be written where there is room, and says where.

        First the file itself once more, for there may be room again; then a file of its own.
        """
        with contextlib.suppress(OSError):
            self._append()
        if not self._waiting:
            return "there is room again, and all lines are in it"
        count = len(self._waiting)
        try:
            fd, name = tempfile.mkstemp(prefix="flowml-rescued-", suffix=".jsonl")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.writelines(self._waiting)
            except OSError:
                Path(name).unlink()
                raise
        except OSError as error:
            folder = tempfile.gettempdir()
            return f"{count} more lines are lost: no room for them in {folder} either ({error.strerror})"
        self._waiting.clear()
        return f"{count} more lines are in {name}: make room and append them"

    def close(self) -> None:
        if self._fd > 2:
            os.close(self._fd)


def open_sink(path: str) -> Sink:
    """Opens a path to append to, with the caller's rights and in the caller's name; `-` is standard output.

    Raises
    ------
    OutputError
        It cannot be opened for writing.
    """
    if path == STANDARD_OUTPUT:
        if sys.stdout is None:  # and descriptor 1 is by now another file, or will be
            raise OutputError("standard output is closed: name a file with --outfile")
        return Sink(1, "standard output")
    try:
        with privileges.as_caller():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        who = privileges.caller().name
        raise OutputError(
            f"{path} cannot be written by {who} ({error.strerror}): name another --outfile"
        ) from error
    return Sink(fd, path)
