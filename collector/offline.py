"""`flowml extract` and `flowml predict`, whole: inputs in, lines out, and what is to be said of them."""

from __future__ import annotations

import contextlib
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from collector.captures import STANDARD_INPUT, Outcome, several
from collector.config import Settings
from collector.errors import InputError, UsageError
from collector.formatter import Formatter
from collector.messages import log
from collector.progress import progress
from collector.records import FATES
from collector.replay import Limits
from collector.signals import stop_signals
from collector.sink import STANDARD_OUTPUT, Sink, open_sink
from collector.training_data import write_origin

__all__ = [
    "STOPPED",
    "check_names",
    "extract",
    "finished",
    "gather",
    "limits_of",
    "open_outfile",
    "total_size",
]

STOPPED = 130
"""Exit code of what Ctrl+C ended early, as shells have it."""

_REMARKS = {
    "backward": "packets are earlier than one before them: they are counted, with the times that they have",
    "impossible": "packets have a time before 1970 or after 2100, and were taken as of then",
    "hellos_cut": "segments were captured without the bytes that tell TLS: connections may be missing that "
    "--filter tcp keeps",
    "evicted": "connections were never answered, and ended early to make room in the table: "
    "raise --max-connections to keep them",
    "table_full": "connections found no room in the table, and are missing: raise --max-connections",
    "truncated": "packets were captured without all of their headers, and are not counted in connections",
}
"""What a user should know who relies on the lines, by counter."""


def extract(captures: Sequence[str], settings: Settings, *, jobs: int) -> int:
    """Writes the features of every connection of the captures; answers the exit code.

    A capture that cannot be read to its end is told of, and the next one is read.
    """
    check_names(captures, settings.outfile)
    formatter = Formatter(None, as_record=True, with_features=True)
    with open_outfile(settings.outfile) as sink, stop_signals() as stop:
        write_origin(settings)
        with progress("extract", total_size(captures)) as advance:
            limits = limits_of(settings)
            total, failed = gather(
                several(captures, limits, formatter, sink.write, stop.fileno(), advance, jobs)
            )
        return finished(total, sink.written, failed=failed, tls_only=limits.tls_only)


def gather(outcomes: Iterable[Outcome]) -> tuple[Outcome, bool]:
    """All outcomes as one, and whether an input was in trouble, which is said as it comes."""
    total, failed = Outcome(), False
    for outcome in outcomes:
        total.counts.update(outcome.counts)
        total.stopped |= outcome.stopped
        if outcome.trouble and not outcome.stopped:
            failed = True
            log(f"flowml: {outcome.trouble}")
    return total, failed


def limits_of(settings: Settings) -> Limits:
    """What of the settings decides which connections there are."""
    return Limits(
        max_connections=settings.max_connections,
        tcp_establish_timeout=settings.tcp_establish_timeout,
        tcp_inactivity_timeout=settings.tcp_inactivity_timeout,
        tls_only=settings.filter == "tls",
        ip=settings.ip,
    )


def check_names(inputs: Sequence[str], outfile: str) -> None:
    """Refuses what would destroy an input, or cannot be read twice.

    Raises
    ------
    UsageError
        The output is one of the inputs; standard input is named twice.
    """
    if list(inputs).count(STANDARD_INPUT) > 1:
        raise UsageError("standard input (-) is named twice: it can be read once")
    for name in inputs:
        with contextlib.suppress(OSError):
            if outfile != STANDARD_OUTPUT and name != STANDARD_INPUT and Path(name).samefile(outfile):
                raise UsageError(f"{outfile} is an input, and would be overwritten: name another --outfile")


@contextlib.contextmanager
def open_outfile(path: str) -> Iterator[Sink]:
    """The sink of lines that are made anew each time."""
    sink = open_sink(path, append=False)
    try:
        yield sink
    finally:
        sink.close()


def total_size(inputs: Sequence[str]) -> int | None:
    """Bytes of all the inputs together, for the progress; None if one is no file."""
    total = 0
    for name in inputs:
        try:
            about = Path(name).stat()
        except (OSError, ValueError):
            continue
        if not stat.S_ISREG(about.st_mode):
            return None
        total += about.st_size
    return None if STANDARD_INPUT in inputs else total


def finished(total: Outcome, written: int, *, failed: bool, tls_only: bool) -> int:
    """Says what the user should know at the end; answers the exit code."""
    for line in _remarks(total.counts, tls_only=tls_only):
        log(line)
    packets = total.counts["packets"]
    fates = ", ".join(f"{name} {total.counts[name]}" for name in FATES if total.counts[name])
    if packets:
        log(f"{packets} packets: {fates}")
    if total.stopped:
        log(f"Stopped. Processed {written} connections until then")
        return STOPPED
    log(f"Done. Processed {written} connections")
    return InputError.exit_code if failed else 0


def _remarks(counts: Mapping[str, int] | Counter[str], *, tls_only: bool) -> Iterator[str]:
    for name, remark in _REMARKS.items():
        if counts[name] and (name != "hellos_cut" or tls_only):
            yield f"note: {counts[name]} {remark}"
