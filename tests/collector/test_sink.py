"""Lines out: what they hold, and that they are whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from collector import records
from collector.errors import OutputError
from collector.features import NAMES, matrix
from collector.records import FLOW, Reason, Rows
from collector.sink import Predictions, Sink, label_lines, open_sink, record_lines

CLOCK = 1_700_000_000_000_000_000


def rows() -> Rows:
    """Two flows; the second one's originator is the key's high end."""
    found = np.zeros(2, dtype=FLOW)
    for i, (high, reason) in enumerate([(0, Reason.FIN), (1, Reason.ESTABLISH)]):
        found[i]["key"]["low_addr"] = 0x0A000001
        found[i]["key"]["high_addr"] = 0xC0A80102
        found[i]["key"]["low_port"] = 40000
        found[i]["key"]["high_port"] = 443
        found[i]["originator_is_high"] = high
        found[i]["reason"] = reason
        found[i]["source_mac"] = [2, 0, 0, 0, 0, 0xA0 + i]
        found[i]["side"][0]["first_ns"] = 123_456_789 + i
        found[i]["side"][0]["last_ns"] = 123_456_789 + i
        found[i]["side"][0]["gate"] = 1 << 12
    found[0]["side"][0]["hello"] = 0x0000FF000000FFFF
    return found


def test_a_record() -> None:
    """The fields, their order, their form."""
    first, second = record_lines(rows(), iface="eth0", wall_clock_ns=CLOCK)

    assert first == (
        b'{"start":"2023-11-14T22:13:20.123456789Z","iface":"eth0","src_ip":"10.0.0.1","src_port":40000,'
        b'"dst_ip":"192.168.1.2","dst_port":443,"s_mac":"02:00:00:00:00:a0","tls":true,"reason":"fin"}\n'
    )
    assert json.loads(second) == {
        "start": "2023-11-14T22:13:20.123456790Z",
        "iface": "eth0",
        "src_ip": "192.168.1.2",
        "src_port": 443,
        "dst_ip": "10.0.0.1",
        "dst_port": 40000,
        "s_mac": "02:00:00:00:00:a1",
        "tls": False,
        "reason": "establish",
    }


def test_a_record_with_prediction_and_features() -> None:
    """Label and probability follow, then the 17 by name; NaN is null."""
    predictions = Predictions(["a", "b"], np.array([1, 0]), np.array([0.75, 1.0]))

    lines = record_lines(
        rows(), iface="eth0", wall_clock_ns=CLOCK, matrix=matrix(rows()), predictions=predictions
    )

    record = json.loads(lines[0])
    assert list(record)[9:] == ["label", "probability", *NAMES]
    assert (record["label"], record["probability"]) == ("b", 0.75)
    assert (record["dur"], record["s_load"], record["s_pkt_cnt"]) == (0.0, None, 1.0)


def test_a_label_is_a_json_string() -> None:
    """Whatever bytes it is made of, it is one line."""
    labels = ["02:00:00:00:00:01", 'a "quoted"\nline', "ü\u2028"]
    predictions = Predictions(labels, np.array([0, 2, 1]), np.ones(3))

    lines = label_lines(predictions)

    assert lines[0] == b'"02:00:00:00:00:01"\n'
    assert [json.loads(line) for line in lines] == [labels[0], labels[2], labels[1]]
    assert all(line.count(b"\n") == 1 for line in lines)


def test_every_reason_has_a_name() -> None:
    """What the kernel can say is what a line can say."""
    found = np.repeat(rows()[:1], len(Reason))
    found["reason"] = [reason.value for reason in Reason]
    named = [json.loads(line)["reason"] for line in record_lines(found, iface="x", wall_clock_ns=0)]
    assert named == ["fin", "rst", "idle", "establish", "shutdown"]


def test_lines_are_appended(tmp_path: Path) -> None:
    """What was in the file stays."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'"before"\n')
    sink = open_sink(str(path))
    sink.write([b'"one"\n', b'"two"\n'])
    sink.close()

    assert path.read_bytes() == b'"before"\n"one"\n"two"\n'
    assert sink.written == 2


@pytest.mark.parametrize("name", ["no/such/folder", "."])
def test_a_path_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """One line that names it."""
    with pytest.raises(OutputError, match=r"cannot be written by .*: name another --outfile") as error:
        open_sink(str(tmp_path / name))
    assert len(str(error.value).splitlines()) == 1


def test_a_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptor 1 would be some other file."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        open_sink("-")


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    """A file that takes 25 bytes of three lines of 10 keeps two; the third is kept and comes later."""
    path = tmp_path / "out.jsonl"
    lines = [b'"1234567"\n', b'"2345678"\n', b'"3456789"\n']
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sink = Sink(fd, "out.jsonl")
    real_write = os.write
    room = 25

    def write(target: int, data: memoryview) -> int:
        nonlocal room
        if target != fd:
            return real_write(target, data)
        if not room:
            raise OSError(28, os.strerror(28))
        sent = real_write(target, data[:room])
        room -= sent
        return sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OutputError, match="No space left on device after 2 lines"):
            sink.write(lines)
        assert path.read_bytes() == lines[0] + lines[1]
        sink.write([b'"4"\n'])  # kept, not tried
        assert path.read_bytes() == lines[0] + lines[1]
        room = 1000

        said = sink.rescue()

    assert said == "there is room again, and all lines are in it"
    assert path.read_bytes() == b"".join(lines) + b'"4"\n'
    assert sink.written == 4


def test_no_rows_no_lines() -> None:
    """An empty batch."""
    assert record_lines(rows()[:0], iface="x", wall_clock_ns=0) == []
    assert records.endpoints(rows()[:0])[0].shape == (0,)
