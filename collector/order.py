"""Flows in the order of their starts, however many there are.

They come in the order of their ends, and one that began first may end last. So they are sorted in runs of
what memory is allowed to hold; the runs wait in a temporary file, and are merged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from collector.errors import OutputError
from collector.records import FLOW, ORIGINATOR, Rows, endpoints, joined, raw

__all__ = ["by_start"]

_RUN_ROWS = 1 << 17
_BLOCK_ROWS = 1 << 10


def by_start(batches: Iterable[Rows], run_rows: int = _RUN_ROWS) -> Iterator[Rows]:
    """The rows of all batches by their first SYN's time, then by endpoints, then in the order they came in.

    Parameters
    ----------
    run_rows
        How many rows memory may hold at a time, about.

    Raises
    ------
    OutputError
        There are more, and no room for them in the folder of temporary files.
    """
    held = np.empty(run_rows, FLOW)
    held_raw = raw(held)
    count = 0
    runs: list[_Run] = []
    with contextlib.ExitStack() as stack:
        for batch in batches:
            while len(batch):
                taken = batch[: run_rows - count]
                held_raw[count : count + len(taken)] = raw(taken)
                count += len(taken)
                batch = batch[len(taken) :]
                if count == run_rows:
                    file = runs[0].file if runs else stack.enter_context(_temporary_file())
                    runs.append(_Run.write(file, held))
                    count = 0
        if not runs:
            yield from _sorted_blocks(held[:count])
            return
        runs.append(_Run.write(runs[0].file, held[:count]))
        del held, held_raw
        yield from _merge(runs)


def _starts(rows: Rows) -> npt.NDArray[np.uint64]:
    starts: npt.NDArray[np.uint64] = rows["side"][:, ORIGINATOR]["first_ns"]
    return starts


def _order(rows: Rows) -> npt.NDArray[np.intp]:
    """What sorts the rows; stable."""
    starts = np.ascontiguousarray(_starts(rows))
    order = np.argsort(starts, kind="stable")
    if np.any(np.diff(starts[order]) == 0):
        source, source_port, destination, destination_port = endpoints(rows)
        order = np.lexsort((destination_port, destination, source_port, source, starts))
    return order


def _sorted_blocks(rows: Rows) -> Iterator[Rows]:
    order, whole = _order(rows), raw(rows)
    for at in range(0, len(rows), _BLOCK_ROWS):
        yield whole[order[at : at + _BLOCK_ROWS]].view(FLOW)


def _temporary_file() -> IO[bytes]:
    import tempfile  # for large captures alone

    try:
        return tempfile.TemporaryFile(prefix="flowml-")
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> OutputError:
    import tempfile

    return OutputError(
        f"{tempfile.gettempdir()}: {error.strerror}, and more connections than memory holds are to wait "
        "there to be sorted: make room, or point TMPDIR at a folder that has it"
    )


class _Run:
    """Sorted rows in the file, read block by block."""

    def __init__(self, file: IO[bytes], at: int, rows: int) -> None:
        self.file = file
        self._at = at
        self.left = rows
        self.block = np.empty(0, FLOW)

    @classmethod
    def write(cls, file: IO[bytes], rows: Rows) -> _Run:
        """Puts rows, sorted, at the end of the file."""
        try:
            at = file.seek(0, 2)
            for block in _sorted_blocks(rows):
                file.write(block.tobytes())
            file.flush()
        except OSError as error:
            raise _no_room(error) from error
        return cls(file, at, len(rows))

    def fill(self) -> bool:
        """Sees to it that there is a block; False if the run is at its end."""
        if not len(self.block) and self.left:
            self._read_on()
        return len(self.block) > 0

    def _read_on(self) -> None:
        self.file.seek(self._at)
        count = min(self.left, _BLOCK_ROWS)
        read = self.file.read(count * FLOW.itemsize)
        self._at += len(read)
        self.left -= count
        self.block = joined([self.block, np.frombuffer(read, FLOW)])

    def up_to(self, start: int) -> Rows:
        """Takes every row that does not start later."""
        while self.left and int(_starts(self.block)[-1]) <= start:
            self._read_on()
        taken = int(np.searchsorted(_starts(self.block), start, side="right"))
        rows, self.block = self.block[:taken], self.block[taken:]
        return rows


def _merge(runs: list[_Run]) -> Iterator[Rows]:
    """Each turn takes from every run what cannot be preceded by anything that is still in the file."""
    while runs := [run for run in runs if run.fill()]:
        bound = min(int(_starts(run.block)[-1]) for run in runs)
        yield from _sorted_blocks(joined(run.up_to(bound) for run in runs))
