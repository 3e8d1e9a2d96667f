"""The one loop: finished flows -> features -> classifier -> lines."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence

from collector.backlog import Backlog
from collector.clock import WallClock
from collector.drain import still_held
from collector.errors import InterfaceError, KernelError, OutputError
from collector.formatter import Formatter
from collector.lines import Origin
from collector.observer import Observer
from collector.pace import Pace
from collector.poll import Poll
from collector.records import SweepMode
from collector.source import Source

__all__ = ["run"]

Log = Callable[[str], None]

_STALLS = 10
_BATCH = 4096
_SWEEP_SHARE = 0.02
"""Of a core, what sweeping may take at the most."""


def run(
    sources: Sequence[Source],
    formatter: Formatter,
    backlog: Backlog,
    *,
    stop: socket.socket,
    resolution_s: float,
    duration_s: float,
    log: Log,
    on_hangup: Callable[[], None] | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Runs until stopped, until `duration_s` is over (0: no end), or until no interface is left.

    However it ends, the hooks are off afterwards and every connection is in the sink. Of several errors
    the others are logged.

    Parameters
    ----------
    on_hangup
        What to do when `stop` tells of SIGHUP; None: that ends the run like any other signal.

    Raises
    ------
    OutputError
        The sink did not take all; what it did not take it keeps.
    KernelError
        A table could not be swept or emptied; what the others held is in the sink.
    InterfaceError
        An interface went away while attached, after everything was drained and written.
    """
    loop = _Loop(sources, formatter, backlog, log, observers)
    pace = Pace(min(source.table.ring.room for source in sources))
    errors: list[BaseException] = []
    try:
        with Poll(stop, backlog, sources) as poll:
            begin = time.monotonic()
            next_sweep = begin + resolution_s
            end = begin + duration_s if duration_s else float("inf")
            while any(source.open for source in sources):
                now = time.monotonic()
                if now >= end:
                    break
                if now >= next_sweep or loop.is_behind:
                    loop.look_after_all()
                    # From its end on, and the later the longer it took: large tables are swept more rarely.
                    now = time.monotonic()
                    next_sweep = now + max(resolution_s, loop.swept_s / _SWEEP_SHARE)
                if now >= backlog.retry_at:
                    backlog.flush()
                wake = 0.0 if loop.is_behind else min(next_sweep, end, backlog.retry_at)
                rests = now < pace.rests_until
                if rests:
                    wake = min(wake, pace.rests_until)
                told, room = poll.wait(max(0.0, wake - now), rings=not rests)
                if told:
                    if on_hangup is None or any(signum != signal.SIGHUP for signum in told):
                        break
                    on_hangup()
                    backlog.flush()
                if room:
                    backlog.flush()
                if taken := sum(loop.drain(source) for source in sources):
                    pace.took(taken, time.monotonic())
                for observer in observers:
                    observer.turned()
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
    if loop.lost:
        raise InterfaceError("; ".join(loop.lost) + ": everything counted until then is written")


class _Loop:
    """The steps of the loop over its fixed parts."""

    def __init__(
        self,
        sources: Sequence[Source],
        formatter: Formatter,
        backlog: Backlog,
        log: Log,
        observers: Sequence[Observer],
    ) -> None:
        self._sources = sources
        self._formatter = formatter
        self._backlog = backlog
        self._log = log
        self._observers = observers
        self._clock = WallClock()
        self.swept_s = 0.0
        """What the sweeps of this round took, seconds."""
        self.lost: list[str] = []
        """What became of interfaces that are lost."""

    @property
    def is_behind(self) -> bool:
        """Whether another sweep would bring more at once: the last one filled a ring that is empty by now."""
        return any(source.is_behind and source.table.ring.is_empty for source in self._sources)

    def drain(self, source: Source) -> int:
        """Takes finished flows out of the ring, and their lines to the sink; how many there were.

        Not all at once, so that no batch is too large to be looked at between two signals; none while the
        sink takes nothing and enough lines wait for it.
        """
        begin = time.monotonic()
        rows = source.table.ring.read(_BATCH if self._backlog.has_room else 0)
        if not len(rows):
            return 0
        try:
            parts = self._clock.parts(rows)
            lines = [self._formatter.lines(part, Origin(offset, iface=source.name)) for offset, part in parts]
            self._backlog.put(b"".join(lines), len(rows))
        finally:  # the sink has them even if it says that there is no room
            took_s = time.monotonic() - begin
            for observer in self._observers:
                observer.written(source.name, rows, took_s)
        return len(rows)

    def look_after_all(self) -> None:
        """Sweeps every source for timeouts, or empties it where its interface is lost; says what is new."""
        self._clock.look()
        self._backlog.look_after()
        self.swept_s = 0.0
        for source in self._sources:
            if not source.open:
                continue
            if not source.leaving and (loss := source.loss()):
                self._log(f"{loss}: detached, what was counted is being written")
                self.lost.append(loss)
                source.hooks.detach()
                source.leaving, source.is_behind = True, False
            if source.leaving:
                source.open = not self.empty(source)
                continue
            for line in source.news():
                self._log(line)
            begin = time.monotonic()
            source.table.sweep(SweepMode.TIMEOUT)
            took_s = time.monotonic() - begin
            self.swept_s += took_s
            for observer in self._observers:
                observer.swept(source.name, took_s)
            source.is_behind = source.table.ring.is_full
            self.drain(source)

    def empty(self, source: Source) -> bool:
        """Ends what is still in a table, and drains as far as there is room; whether nothing is left."""
        while self.drain(source):
            pass
        if still_held(source.table.counters()):
            source.table.sweep(SweepMode.SHUTDOWN)
            while self.drain(source):
                pass
        return still_held(source.table.counters()) == 0 and source.table.ring.is_empty

    def close(self, source: Source) -> None:
        """Detaches, ends every connection still in the table, and drains until none is left."""
        source.hooks.detach()
        held, stalled = still_held(source.table.counters()), 0
        while not self.empty(source):
            before, held = held, still_held(source.table.counters())
            stalled = stalled + 1 if held >= before else 0  # a last packet in flight may open one
            if stalled > _STALLS:
                raise KernelError(f"{source.name}: {held} connections cannot be taken out of the table")
        source.open = False

    def finish(self) -> list[Exception]:
        """Closes every source, whatever becomes of the others; answers what went wrong.

        The hooks of all are off before the first is drained.
        """
        for source in self._sources:
            source.hooks.detach()
        self._backlog.end()
        errors: list[Exception] = []
        for source in self._sources:
            try:
                self.close(source)
            except Exception as error:
                errors.append(error)
        try:
            self._backlog.close()
        except OutputError as error:
            errors.append(error)
        return errors
