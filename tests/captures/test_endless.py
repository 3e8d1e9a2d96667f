"""Inputs that do not end by themselves: Ctrl+C ends them, and what was read until then is written."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.frames import CLIENT_HELLO, pcap, tcp
from tests.lab import end, wait_for
from tests.tool import FLOWML

ENOUGH = 1 << 20
"""Bytes that were written, many times what a pipe holds: most of them were read."""

FEEDER = """
import sys
from tests.frames import CLIENT_HELLO, pcap, tcp

packets = []
for port in range(1024, 2024):
    frames = tcp("S", sport=port), tcp("A", CLIENT_HELLO, seq=1, sport=port), tcp("R", sport=port)
    packets += [(10**18, frame) for frame in frames]
body = pcap(packets)
with open(sys.argv[1], "wb", buffering=0) as pipe, open(sys.argv[2], "w") as told:
    pipe.write(body[:24])
    written = 0
    while True:
        written += pipe.write(body[24:])
        told.seek(0)
        told.write(str(written))
        told.flush()
"""
"""A process that writes connections into a pipe without end, and into a file how many bytes that were."""


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """`flowml` with these arguments, ended after the body at the latest."""
    command = [str(FLOWML), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        end(process, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def interrupted(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Ctrl+C: exit code, standard output, and what was said."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.decode()


def has_open(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Whether the process is at the file."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            if link.readlink() == path:
                return True
    return False


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two devices, and beside it the rows that it was trained on."""
    folder = tmp_path_factory.mktemp("model")
    packets = []
    for port in range(1024, 1064):
        mac = f"02:00:00:00:00:0{port % 2}"
        ends = {"src_mac": mac, "sport": port, "ttl": 64 + port % 2}
        hello = tcp("A", CLIENT_HELLO, seq=1, **ends)  # type: ignore[arg-type]
        packets += [(10**18 + port, tcp("S", **ends)), (10**18 + 2 * port, hello)]  # type: ignore[arg-type]
    (folder / "c.pcap").write_bytes(pcap(packets))
    for command in (
        ["extract", "c.pcap", "--outfile", "rows.jsonl"],
        ["train", "rows.jsonl", "m.joblib", "--trees", "5"],
    ):
        subprocess.run([FLOWML, *command], cwd=folder, check=True, capture_output=True)
    return folder / "m.joblib"


def test_a_pipe_that_is_fed_without_end(fifo: Path, tmp_path: Path) -> None:
    """Every connection that was read is a line, the fates add up, and it says that it was stopped."""
    told = tmp_path / "told"
    feeder = subprocess.Popen([sys.executable, "-c", FEEDER, fifo, told], stderr=subprocess.DEVNULL)
    try:
        with running("extract", fifo, "--outfile", "-") as process:
            wait_for(lambda: told.exists() and int(told.read_text() or 0) > ENOUGH, "reading")
            code, out, err = interrupted(process)
    finally:
        end(feeder)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 130
    fates, done = err.splitlines()
    found = re.fullmatch(r"(\d+) packets: tracked (\d+)", fates)
    assert found is not None, err
    assert found[1] == found[2]
    assert len(lines) == (int(found[1]) + 1) // 3 > 1000  # a SYN alone is no TLS
    assert done == f"Stopped. Processed {len(lines)} connections until then"


def test_a_pipe_that_nobody_feeds(fifo: Path, model: Path) -> None:
    """It is waited for, but not longer than until Ctrl+C."""
    for command in (["extract"], ["predict", str(model)]):
        with running(*command, fifo, "--outfile", "-") as process:
            wait_for(lambda running=process: has_open(running, fifo), "the pipe to be open")  # type: ignore[misc]
            code, out, err = interrupted(process)
        assert (code, out) == (130, b"")
        assert err.splitlines() == ["Stopped. Processed 0 connections until then"]


def test_rows_that_stop_coming(fifo: Path, model: Path) -> None:
    """`predict` answers the whole ones that it has read; half a row is not an error then."""
    rows = model.with_name("rows.jsonl").read_bytes().splitlines(keepends=True)[:3]
    sent = b"".join(rows) + rows[0][:20]
    with running("predict", model, fifo, "--outfile", "-") as process, fifo.open("wb", buffering=0) as feed:
        feed.write(sent)
        wait_for(lambda: unread(feed.fileno()) == 0, "the rows to be read")
        code, out, err = interrupted(process)
    assert (code, len(out.splitlines())) == (130, 3)
    assert err.splitlines()[-1] == "Stopped. Processed 3 connections until then"


def unread(fd: int) -> int:
    """Bytes that are in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
