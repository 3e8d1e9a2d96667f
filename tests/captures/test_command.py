"""`flowml extract` as its users run it: what it reads, what it refuses, what it says."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.captures.common import EXAMPLE, command, fates, record_of, records, same
from tests.captures.formats import Interface, pcapng
from tests.frames import CLIENT, CLIENT_HELLO, SERVER, answer, pcap, tcp
from tests.oracle import NS_PER_S, connections
from tests.tool import FLOWML

BEGIN = EXAMPLE[0][0]


def parsed(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().splitlines()


def test_a_capture(tmp_path: Path) -> None:
    """Lines on standard output, and nothing else there; what became of the packets on standard error."""
    path = tmp_path / "one.pcap"
    path.write_bytes(pcap(EXAMPLE))
    done = command(path, "--filter", "tcp")
    assert done.returncode == 0
    assert same(parsed(done), records(EXAMPLE, capture=str(path)))
    counted = ", ".join(f"{name} {count}" for name, count in fates(EXAMPLE).items())
    assert said(done) == [
        "note: 1 packets were captured without all of their headers, and are not counted in connections",
        f"{len(EXAMPLE)} packets: {counted}",
        "Done. Processed 8 connections",
    ]


def test_only_tls_unless_told_otherwise(tmp_path: Path) -> None:
    """As `collect` does."""
    path = tmp_path / "one.pcap"
    path.write_bytes(pcap(EXAMPLE))
    done = command(path)
    wanted = [record_of(one, capture=str(path)) for one in connections(EXAMPLE, tls_only=True)]
    assert same(parsed(done), wanted)
    assert [one["tls"] for one in parsed(done)] == [True, True]


@pytest.mark.parametrize("coding", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", [pcap, pcapng])
def test_standard_input(coding: object, form: object) -> None:
    """`-` reads a capture from a pipe, whatever its form, and that is its name."""
    assert callable(coding)
    assert callable(form)
    done = command("-", "--filter", "tcp", stdin=coding(form(EXAMPLE)))
    assert same(parsed(done), records(EXAMPLE, capture="-"))
    assert done.returncode == 0


def test_standard_input_bit_by_bit() -> None:
    """A pipe that gives a byte at a time, and breaks in awkward places."""
    data = gzip.compress(pcap(EXAMPLE))
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for at in range(len(data)):
                pipe.write(data[at : at + 1])

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(reading, "rb") as pipe:
        arguments = [str(FLOWML), "extract", "-", "--filter", "tcp", "--outfile", "-"]
        done = subprocess.run(arguments, stdin=pipe, capture_output=True, check=False, timeout=60)
    feeder.join()
    assert same(parsed(done), records(EXAMPLE, capture="-"))


def test_tcpdump_into_flowml(tmp_path: Path) -> None:
    """`tcpdump -w - | flowml extract -`: the stream that it writes is read."""
    path = tmp_path / "one.pcap"
    path.write_bytes(pcap(EXAMPLE, nanoseconds=False))
    with subprocess.Popen(
        ["tcpdump", "-r", path, "-w", "-", "-Z", "root"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tcpdump:
        arguments = [str(FLOWML), "extract", "-", "--filter", "tcp", "--outfile", "-"]
        done = subprocess.run(arguments, stdin=tcpdump.stdout, capture_output=True, check=False, timeout=60)
    assert same(parsed(done), records(EXAMPLE, capture="-"))


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    """It is opened as it is; in the line, what cannot be said in JSON is replaced."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.pcap"
    Path(os.fsdecode(path)).write_bytes(pcap(EXAMPLE))
    done = command(path, "--filter", "tcp")
    assert same(parsed(done), records(EXAMPLE, capture=path.decode(errors="replace")))
    assert done.returncode == 0
    gone = command(path + b".none")
    assert gone.returncode == 3
    assert len(gone.stderr.splitlines()) == 2


def test_lines_are_in_the_order_of_starts(tmp_path: Path) -> None:
    """Not of ends: the one that begins first ends last. Capture by capture, as they were named."""
    early, late = tmp_path / "early.pcap", tmp_path / "late.pcap"
    nested = [(BEGIN + port, tcp("S", sport=port)) for port in range(1, 100)]
    nested += [(BEGIN + 1000 - port, answer_to(port)) for port in range(99, 0, -1)]
    early.write_bytes(pcap(nested))
    late.write_bytes(pcap((time_ns + NS_PER_S, frame) for time_ns, frame in nested))
    lines = parsed(command(late, early, "--filter", "tcp"))
    assert [one["src_port"] for one in lines] == [*range(1, 100), *range(1, 100)]
    assert [one["capture"] for one in lines] == [str(late)] * 99 + [str(early)] * 99


def answer_to(port: int) -> bytes:
    frame = bytearray(answer("RA"))
    frame[36:38] = port.to_bytes(2, "big")
    return bytes(frame)


def test_the_same_start_is_in_the_order_of_endpoints(tmp_path: Path) -> None:
    """So that the order does not depend on how flowml keeps its connections."""
    path = tmp_path / "one.pcap"
    ends = [("10.0.0.9", 5), ("9.0.0.1", 7), ("10.0.0.10", 4), ("10.0.0.9", 4), ("200.0.0.1", 1)]
    path.write_bytes(pcap((BEGIN, tcp("S", src=src, sport=port)) for src, port in ends))
    lines = parsed(command(path, "--filter", "tcp"))
    assert [(one["src_ip"], one["src_port"]) for one in lines] == [
        ("9.0.0.1", 7),
        ("10.0.0.9", 4),
        ("10.0.0.9", 5),
        ("10.0.0.10", 4),
        ("200.0.0.1", 1),
    ]


def test_what_a_snap_length_cut_away_is_told(tmp_path: Path) -> None:
    """A filter for TLS may have missed connections; without it there is nothing to say."""
    path = tmp_path / "cut.pcap"
    packets = [(BEGIN, tcp("S", seq=1)), (BEGIN + 1, tcp("PA", CLIENT_HELLO, seq=2))]
    path.write_bytes(pcap(packets, snap_length=54))
    assert said(command(path))[0].startswith("note: 1 segments were captured without the bytes that tell TLS")
    assert said(command(path, "--filter", "tcp"))[0] == "2 packets: tracked 2"


def test_packets_out_of_order_are_told(tmp_path: Path) -> None:
    """How many."""
    path = tmp_path / "late.pcap"
    path.write_bytes(pcap([(BEGIN, tcp("S")), (BEGIN - 5, answer("SA")), (BEGIN - 1, tcp("A"))]))
    assert said(command(path, "--filter", "tcp"))[0].startswith("note: 2 packets are earlier than one before")


def test_a_table_that_is_full_is_told(tmp_path: Path) -> None:
    """And which option makes it larger. Each connection was answered, so none makes room for another."""
    path = tmp_path / "full.pcap"
    both = {
        port: (tcp("S", sport=port), tcp("SA", src=SERVER[0], sport=443, dst=CLIENT[0], dport=port))
        for port in range(1, 11)
    }
    path.write_bytes(pcap((BEGIN + port, frame) for port, frames in both.items() for frame in frames))
    done = command(path, "--filter", "tcp", "--max-connections", "7")
    assert len(parsed(done)) == 7
    assert said(done)[0] == (
        "note: 3 connections found no room in the table, and are missing: raise --max-connections"
    )


def test_a_connection_that_was_never_answered_makes_room(tmp_path: Path) -> None:
    """It is written, with its reason, and how many did is told."""
    path = tmp_path / "flood.pcap"
    path.write_bytes(pcap((BEGIN + port, tcp("S", sport=port)) for port in range(1, 11)))
    done = command(path, "--filter", "tcp", "--max-connections", "7")
    assert Counter(record["reason"] for record in parsed(done)) == {"evicted": 3, "shutdown": 7}
    assert said(done)[0].startswith("note: 3 connections were never answered, and ended early to make room")


# --- what is refused ------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.pcap"
    path.write_bytes(pcap(EXAMPLE))
    return path


@pytest.mark.parametrize("by", ["name", "link", "symlink"])
def test_the_outfile_is_no_input(good: Path, by: str) -> None:
    """By whatever name: it is left as it is."""
    outfile = good.with_name("other")
    if by == "name":
        outfile = good
    elif by == "link":
        outfile.hardlink_to(good)
    else:
        outfile.symlink_to(good)
    done = command(good, "--outfile", outfile)
    assert done.returncode == 2
    assert said(done) == [f"flowml: {outfile} is an input, and would be overwritten: name another --outfile"]
    assert good.read_bytes() == pcap(EXAMPLE)


def test_standard_input_twice() -> None:
    """It can be read once."""
    done = command("-", "-", stdin=pcap(EXAMPLE))
    assert (done.returncode, done.stdout) == (2, b"")
    assert said(done) == ["flowml: standard input (-) is named twice: it can be read once"]


def refused(path: Path, good: Path) -> str:
    """The one line about an input, beside one that is good and is read nevertheless."""
    done = command(path, good, "--filter", "tcp")
    assert done.returncode == 3
    assert same(parsed(done), records(EXAMPLE, capture=str(good)))
    (line,) = [line for line in said(done) if line.startswith("flowml: ")]
    assert "Traceback" not in done.stderr.decode()
    return line


def test_a_folder(good: Path) -> None:
    folder = good.parent
    assert refused(folder, good) == f"flowml: {folder} is a folder: name the captures in it"


def test_a_file_that_is_not_there(good: Path) -> None:
    path = good.with_name("none")
    assert refused(path, good) == (
        f"flowml: {path} cannot be opened (No such file or directory): name a capture"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give the file to another user")
def test_a_file_that_may_not_be_read(good: Path) -> None:
    """Another user's, read without the rights that root has over files."""
    other = good.with_name("other.pcap")
    other.write_bytes(pcap(EXAMPLE))
    other.chmod(0o600)
    os.chown(other, 65534, 65534)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", FLOWML, "extract", other, "--outfile", "-"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3
    assert f"flowml: {other} cannot be opened (Permission denied): name a capture" in said(done)


@pytest.mark.parametrize(
    ("link_type", "name"), [(105, "802.11"), (127, "802.11 plus radiotap header"), (147, "DLT 147")]
)
def test_a_link_that_is_not_read(good: Path, link_type: int, name: str) -> None:
    """It is named."""
    path = good.with_name("other.pcap")
    path.write_bytes(pcap(EXAMPLE, link_type=link_type))
    line = refused(path, good)
    assert line.startswith(f"flowml: {path} cannot be read as a capture: its link type is ")
    assert name in line
    assert line.endswith("which flowml does not read")
    path.write_bytes(pcapng(EXAMPLE, (Interface(link_type=link_type),)))
    assert refused(path, good) == line


@pytest.mark.parametrize("data", [b"", b"\n", b'{"start":"2026"}\n' * 100, bytes(1000)], ids=len)
def test_what_is_no_capture(good: Path, data: bytes) -> None:
    """Empty files, text, zeros: one line each."""
    path = good.with_name("other.pcap")
    path.write_bytes(data)
    assert refused(path, good).startswith(f"flowml: {path} cannot be read as a capture: ")


def test_a_capture_that_breaks_off(good: Path) -> None:
    """What was read until there is written."""
    path = good.with_name("cut.pcap")
    path.write_bytes(pcap(EXAMPLE)[:-1])
    done = command(path, "--filter", "tcp")
    assert done.returncode == 3
    assert same(parsed(done), records(EXAMPLE[:-1], capture=str(path)))
    assert said(done)[0].startswith(f"flowml: {path} cannot be read beyond packet {len(EXAMPLE) - 1}: ")


def test_an_outfile_that_cannot_be_written(good: Path) -> None:
    done = command(good, "--outfile", good / "below")
    assert done.returncode == 4
    assert len(said(done)) == 1
