"""`flowml verify`: equal is equal, and what differs is found and shown."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import loader
from collector.compare import Tally, compare_rows
from collector.features import NAMES
from collector.records import Rows, joined
from collector.replay import Limits, Replay
from collector.verify import verify
from tests import frames
from tests.replay import changed_core
from tests.tool import FLOWML

pytestmark = [pytest.mark.kernel, pytest.mark.live]

LIMITS = Limits(
    max_connections=1000, tcp_establish_timeout=5000, tcp_inactivity_timeout=300_000, tls_only=False
)
MS = 10**6


def conversation(port: int, start: int) -> Iterator[tuple[int, bytes]]:
    """A connection of nine segments over 1.6 s, the last after its end; its third TTL is another one."""
    up: dict[str, Any] = {"sport": port, "dport": 443}
    down: dict[str, Any] = {"src": "10.0.0.2", "dst": "10.0.0.1", "sport": 443, "dport": port}
    said = [
        (0, "S", b"", up),
        (20, "SA", b"", down),
        (45, "A", b"", up | {"ttl": 61}),
        (50, "PA", frames.CLIENT_HELLO, up | {"seq": 1}),
        (400, "PA", b"x" * 900, down),
        (900, "A", b"", up),
        (1500, "FA", b"", up),
        (1550, "FA", b"", down),
        (1600, "A", b"", up),
    ]
    for at, flags, payload, ends in said:
        yield start + at * MS, frames.tcp(flags, payload, **ends)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Three connections that overlap, one that is never answered, and a packet of something else."""
    packets = [packet for i in range(3) for packet in conversation(40000 + i, 10**18 + i * 300 * MS)]
    packets.append((10**18 + 100 * MS, frames.tcp("S", sport=50000)))
    packets.append((10**18 + 101 * MS, bytes(60)))
    path = tmp_path / "c.pcap"
    path.write_bytes(frames.pcap(sorted(packets)))
    return path


def run(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLOWML, "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | (environment or {}),
    )


def test_what_is_equal_is_said_feature_by_feature(capture: Path) -> None:
    """A line a feature, with the connections compared and the largest difference; exit 0."""
    done = run(capture)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "captures 1, packets 29, connections 4" in done.stdout
    table = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.split()[:1] != []}
    assert set(NAMES) <= set(table)
    assert table["s_pkt_cnt"][1:5] == ["4", "0", "4", "0"]
    assert table["tcp_rtt"][1:4] == ["3", "0", "3"]
    assert 0 < float(table["dur"][4]) < 0.02
    assert "raw counters compared, 0 connections differ" in done.stdout
    assert "wire = cpu: 4 connections compared, 0 differ" in done.stdout


@pytest.mark.parametrize(
    ("header", "before", "after", "shown"),
    [
        (
            "track.h",
            "atomic_add(&from->bytes, (__u64)pkt->size);",
            "atomic_add(&from->bytes, (__u64)pkt->size + (pkt->ttl == 61));",
            "side[0].bytes: kernel ",
        ),
        ("track.h", "return claim_end(flow, REASON_RST);", "return 0;", ""),
        ("parse.h", "return COUNT_not_tcp;", "return COUNT_not_ip;", ""),
    ],
    ids=["a byte too many", "no difference here", "nor here"],
)
def test_a_core_that_differs_is_found_out(
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    header: str,
    before: str,
    after: str,
    shown: str,
) -> None:
    """The kernel runs another core than the CPU: the first connection that differs is shown, both sides."""
    source = changed_core(tmp_path, before, after, file=header)
    monkeypatch.setattr(loader, "bpf_folder", lambda: source)
    said: list[str] = []

    equal = verify([str(capture)], LIMITS, live=False, write=said.append)

    text = "\n".join(said)
    assert equal == (not shown)
    assert shown in text
    assert ("the first connection that differs:\nkernel: {" in text) == bool(shown)


def test_fates_that_differ_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no connection does."""
    capture = tmp_path / "c.pcap"
    capture.write_bytes(frames.pcap([(10**18, frames.tcp("S", proto=17))]))
    source = changed_core(tmp_path, "return COUNT_not_tcp;", "return COUNT_not_ip;", file="parse.h")
    monkeypatch.setattr(loader, "bpf_folder", lambda: source)
    said: list[str] = []

    assert not verify([str(capture)], LIMITS, live=False, write=said.append)

    assert f"fates of packets differ: {capture}: not_ip: kernel 1, cpu 0" in said


def flows(capture: Path) -> Rows:
    with capture.open("rb") as file, Replay(file.fileno(), LIMITS) as replay:
        return joined(replay.batches())


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("field", ["bytes", "first_ns", "last_ns", "handshake_ns", "ttl_excess", "hello"])
def test_one_bit_is_a_difference(capture: Path, side: int, field: str) -> None:
    """Of any counter, in one of the connections."""
    ours, theirs = flows(capture), flows(capture)
    theirs["side"][2, side][field] ^= 1
    tally = Tally()

    compare_rows(ours, theirs, ("one", "other"), tally)

    assert tally.differ == 1
    assert f"side[{side}].{field}: one " in tally.first


def test_a_connection_that_only_one_has(capture: Path) -> None:
    """It is counted, and shown."""
    rows = flows(capture)
    tally = Tally()

    compare_rows(rows, rows[:-1], ("one", "other"), tally)

    assert tally.differ >= 1
    assert tally.first


PLAYER = """#!{python}
import os, sys
path = sys.argv[-1]
raw = bytearray(open(path, "rb").read())
{change}
open(path, "wb").write(raw)
os.execv({tcpreplay!r}, ["tcpreplay", *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    ("change", "exit_code", "said"),
    [
        ("raw[24 + 16 + 14 + 8] -= 1  # the first TTL", 1, '"s_ttl_mean": 63'),
        ("del raw[-(16 + 54):]  # the last packet", 7, "of 29 packets came over the wire"),
    ],
    ids=["another TTL", "a packet less"],
)
def test_a_wire_that_carries_something_else_is_found_out(
    capture: Path, tmp_path: Path, change: str, exit_code: int, said: str
) -> None:
    """What tcpreplay sends is not what the CPU has counted."""
    tcpreplay = shutil.which("tcpreplay")
    assert tcpreplay is not None
    player = tmp_path / "bin" / "tcpreplay"
    player.parent.mkdir()
    player.write_text(PLAYER.format(python=sys.executable, change=change, tcpreplay=tcpreplay))
    player.chmod(player.stat().st_mode | stat.S_IXUSR)

    done = run(capture, environment={"PATH": f"{player.parent}:{os.environ['PATH']}"})

    assert done.returncode == exit_code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr


def test_nothing_stays(capture: Path) -> None:
    """No interface, no namespace, no file."""

    def traces() -> tuple[set[Path], str, set[str]]:
        links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
        files = {path.name for path in Path("/tmp").glob("flowml-verify-*")}
        return set(Path("/sys/class/net").iterdir()), links, files

    before = traces()
    assert run(capture).returncode == 0
    assert traces() == before


def test_a_capture_that_breaks_off_proves_nothing(capture: Path) -> None:
    """One line; no table that could be taken for a proof."""
    capture.write_bytes(capture.read_bytes()[:-5])
    done = run(capture, "--no-live")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "cannot be read to its end: truncated dump file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_root_it_is_refused(capture: Path) -> None:
    """Before anything is compiled."""
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*as_nobody, FLOWML, "verify", capture], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode == 126 or "Permission denied" in done.stderr:
        pytest.skip("this checkout is in a folder that nobody can enter")
    assert done.returncode == 5
    assert "needs root" in done.stderr


def test_no_such_capture() -> None:
    """One line."""
    done = run("--no-live", "/nonexistent.pcap")
    assert done.returncode == 3
    assert (
        done.stderr
        == "flowml: /nonexistent.pcap cannot be opened (No such file or directory): name a capture\n"
    )
