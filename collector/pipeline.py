"""The one loop: finished flows -> features -> classifier -> lines."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from collector.drain import FlowTable, still_held
from collector.errors import InterfaceError, KernelError, OutputError
from collector.features import matrix
from collector.hooks import Attachment
from collector.lines import Origin, Predictions, label_lines, record_lines
from collector.records import Rows, SweepMode
from collector.sink import Sink
from ml.classifier import Classifier, Sequential

__all__ = ["Classifier", "Formatter", "Source", "ask", "run", "stop_signals"]

Log = Callable[[str], None]

_STALLS = 10
_SWEEP_SHARE = 0.02
"""Of a core, what sweeping may take at the most."""


def ask(
    classifier: Classifier, X: npt.NDArray[np.float64], senders: Callable[[], Sequence[Hashable]]
) -> Predictions:
    """What a classifier says of rows; one that looks at the connections before is told whose each row is."""
    if isinstance(classifier, Sequential):
        return Predictions(classifier.labels, *classifier.predict_in_turn(X, senders()))
    return Predictions(classifier.labels, *classifier.predict(X))


class Formatter:
    """Rows to lines: with or without a classifier, as label or as record."""

    def __init__(self, classifier: Classifier | None, *, as_record: bool, with_features: bool) -> None:
        self._classifier = classifier
        if isinstance(classifier, Sequential):
            classifier.forget()
        self._as_record = as_record
        self._with_features = with_features

    def lines(self, rows: Rows, origin: Origin) -> bytes:
        """One line a flow, in the order of the rows."""
        X = matrix(rows)
        predictions = None
        if self._classifier is not None:
            predictions = ask(self._classifier, X, lambda: _senders(rows, origin))
            if not self._as_record:
                return label_lines(predictions)
        return record_lines(
            rows,
            origin,
            matrix=X if self._with_features else None,
            predictions=predictions,
        )


def _senders(rows: Rows, origin: Origin) -> list[Hashable]:
    where = origin.iface or origin.capture
    return [(where, mac.tobytes()) for mac in rows["source_mac"]]


class Source:
    """One interface with its flow table, from attached to drained."""

    def __init__(self, hooks: Attachment, table: FlowTable) -> None:
        self.hooks = hooks
        self.table = table
        self.name = hooks.interface.name
        self.open = True

    def trouble(self) -> str:
        """Why nothing more can come from here; empty while all is well."""
        if not self.hooks.is_alive():
            return f"{self.name} has gone"
        if not self.hooks.interface.is_up():
            return f"{self.name} went down"
        return ""


@contextlib.contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """In its body SIGINT, SIGTERM and SIGHUP end nothing; they make the socket readable.

    One that is ignored, as SIGHUP is under nohup, stays so.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = {}
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, lambda *_: None)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup)
            for signum, handler in before.items():
                signal.signal(signum, handler)


def run(
    sources: Sequence[Source],
    formatter: Formatter,
    sink: Sink,
    *,
    stop: socket.socket,
    resolution_s: float,
    duration_s: float,
    log: Log,
) -> None:
    """Runs until stopped, until `duration_s` is over (0: no end), or until no interface is left.

    However it ends, the hooks are off afterwards and every connection is in the sink. Of several errors
    the others are logged.

    Raises
    ------
    OutputError
        The sink refused; what it did not take it keeps.
    KernelError
        A table could not be swept or emptied; what the others held is in the sink.
    InterfaceError
        An interface went down or away while attached, after everything was drained and written.
    """
    loop = _Loop(sources, formatter, sink)
    lost: list[str] = []
    errors: list[BaseException] = []
    try:
        with select.epoll() as poll:
            poll.register(stop, select.EPOLLIN)
            for source in sources:
                poll.register(source.table.ring.fd, select.EPOLLIN)
            begin = time.monotonic()
            next_sweep = begin + resolution_s
            end = begin + duration_s if duration_s else float("inf")
            while any(source.open for source in sources):
                now = time.monotonic()
                if now >= end:
                    break
                if now >= next_sweep:
                    loop.swept_s = 0.0
                    for source in sources:
                        lost += loop.look_after(source, log)
                    # From its end on, and the later the longer it took: large tables are swept more rarely.
                    now = time.monotonic()
                    next_sweep = now + max(resolution_s, loop.swept_s / _SWEEP_SHARE)
                events = poll.poll(max(0.0, min(next_sweep, end) - now))
                if any(fd == stop.fileno() for fd, _ in events):
                    break
                for source in sources:
                    loop.drain(source)
    except BaseException as error:
        errors.append(error)
    errors += loop.finish()
    if errors:
        # The sink's goes first: whoever gets it puts aside what the sink keeps.
        first = next((one for one in errors if isinstance(one, OutputError)), errors[0])
        for other in errors:
            if str(other) != str(first):
                log(str(other))
        raise first
    if lost:
        raise InterfaceError("; ".join(lost) + ": everything counted until then is written")


class _Loop:
    """The steps of the loop over its fixed parts."""

    def __init__(self, sources: Sequence[Source], formatter: Formatter, sink: Sink) -> None:
        self._sources = sources
        self._formatter = formatter
        self._sink = sink
        self.swept_s = 0.0
        """What the sweeps of this round took, seconds."""

    def drain(self, source: Source) -> None:
        """Takes finished flows out of the ring, and their lines to the sink."""
        rows = source.table.ring.read()
        if len(rows):
            # The rows' clock stands still in suspend and is not set; the offset is taken anew each time.
            offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            self._sink.write(self._formatter.lines(rows, Origin(offset, iface=source.name)))

    def look_after(self, source: Source, log: Log) -> list[str]:
        """Sweeps for timeouts; closes a source whose interface is lost, and says so."""
        if not source.open:
            return []
        trouble = source.trouble()
        if not trouble:
            begin = time.monotonic()
            source.table.sweep(SweepMode.TIMEOUT)
            self.swept_s += time.monotonic() - begin
            self.drain(source)
            return []
        log(f"{trouble}: detached, what was counted is being written")
        self.close(source)
        return [trouble]

    def close(self, source: Source) -> None:
        """Detaches, ends every connection still in the table, and drains until none is left."""
        source.open = False
        source.hooks.detach()
        self.drain(source)
        held, stalled = still_held(source.table.counters()), 0
        while held:
            source.table.sweep(SweepMode.SHUTDOWN)
            self.drain(source)
            before, held = held, still_held(source.table.counters())
            stalled = stalled + 1 if held >= before else 0  # a last packet in flight may open one
            if stalled > _STALLS:
                raise KernelError(f"{source.name}: {held} connections cannot be taken out of the table")

    def finish(self) -> list[Exception]:
        """Closes every source, whatever becomes of the others; answers what went wrong.

        The hooks of all are off before the first is drained.
        """
        for source in self._sources:
            source.hooks.detach()
        errors: list[Exception] = []
        for source in self._sources:
            try:
                try:
                    self.close(source)
                except OutputError as error:  # once: from now on the sink keeps what comes
                    errors.append(error)
                    self.close(source)
            except Exception as error:
                errors.append(error)
        return errors
