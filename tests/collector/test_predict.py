"""`flowml predict`: captures and rows, told apart by content, decided as the model was trained."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import frames
from tests.tool import FLOWML

NS = 10**9
DEVICES = {"02:00:00:00:00:01": 64, "02:00:00:00:00:02": 128}


def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run(
        [FLOWML, *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=120
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def traffic(devices: Sequence[str], *, connections: int = 12) -> list[tuple[int, bytes]]:
    """TLS connections of devices that differ in TTL and in how much they send; one plain one of each."""
    packets = []
    for i in range(connections):
        for number, mac in enumerate(devices):
            start = (10 * i + number) * NS
            ends: dict[str, Any] = {"src_mac": mac, "ttl": DEVICES[mac], "sport": 40000 + 100 * number + i}
            hello = b"plain" if i == 0 else frames.CLIENT_HELLO
            packets += [
                (start, frames.tcp("S", **ends)),
                (start + NS // 100, frames.tcp("A", hello + bytes(100 * number), seq=1, **ends)),
                (start + NS // 10, frames.tcp("R", **ends)),
            ]
    return sorted(packets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture, its rows, and a model that was trained on them."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "c.pcap").write_bytes(frames.pcap(traffic(list(DEVICES))))
    assert run("extract", folder / "c.pcap", "--outfile", folder / "rows.jsonl")[0] == 0
    code, _, said = run("train", folder / "rows.jsonl", folder / "m.joblib", "--trees", "10")
    assert code == 0, said
    return folder


def test_a_capture_and_its_rows_get_the_same_labels(folder: Path) -> None:
    """One JSON string a connection, in the order of the rows."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    answers = []
    for name in ("c.pcap", "rows.jsonl"):
        code, out, said = run("predict", folder / "m.joblib", folder / name, "--outfile", "-")
        assert code == 0, said
        answers.append(out)
    assert answers[0] == answers[1]
    assert [json.loads(line) for line in answers[0].splitlines()] == [row["s_mac"] for row in rows]


def test_a_record_is_the_row_with_its_label(folder: Path) -> None:
    """Of a capture and of rows: the same line but for the order of its fields."""
    records = []
    for name in ("c.pcap", "rows.jsonl"):
        code, out, said = run(
            *("predict", folder / "m.joblib", folder / name),
            *("--format", "record", "--features", "--outfile", "-"),
        )
        assert code == 0, said
        records.append([json.loads(line) for line in out.splitlines()])
    assert records[0] == records[1]
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for record, row in zip(records[0], rows, strict=True):
        assert {name: record[name] for name in row} == row
        assert record["label"] == row["s_mac"]
        assert 0.5 < record["probability"] <= 1


@pytest.mark.parametrize("name", ["c.pcap", "rows.jsonl"])
def test_standard_input(folder: Path, name: str) -> None:
    """The same, read from a pipe."""
    of_file = run("predict", folder / "m.joblib", folder / name, "--outfile", "-")
    of_pipe = run("predict", folder / "m.joblib", "-", "--outfile", "-", stdin=(folder / name).read_bytes())
    assert of_file[:2] == of_pipe[:2]


def test_which_connections_there_are_is_decided_by_the_model(folder: Path, tmp_path: Path) -> None:
    """One trained on all TCP is asked about all TCP, without a flag; another filter is refused."""
    assert run("extract", folder / "c.pcap", "--filter", "tcp", "--outfile", tmp_path / "tcp.jsonl")[0] == 0
    assert run("train", tmp_path / "tcp.jsonl", tmp_path / "tcp.joblib", "--trees", "5")[0] == 0

    counts = {}
    for model in (folder / "m.joblib", tmp_path / "tcp.joblib"):
        code, out, said = run("predict", model, folder / "c.pcap", "--outfile", "-")
        assert code == 0, said
        counts[model.name] = len(out.splitlines())
    assert counts == {"m.joblib": 22, "tcp.joblib": 24}

    for arguments in (
        [folder / "m.joblib", folder / "c.pcap", "--filter", "tcp"],
        [folder / "m.joblib", tmp_path / "tcp.jsonl"],
    ):
        code, out, said = run("predict", *arguments, "--outfile", "-")
        assert (code, out) == (3, "")
        assert said.splitlines()[-1].startswith("flowml: m.joblib was trained on filter=tls, but filter=tcp")


def test_so_are_the_versions_of_ip(folder: Path, tmp_path: Path) -> None:
    """What was trained on both is asked about both; another `--ip`, or such rows, are refused without
    `--force`."""
    both = ("--ip", "both")
    assert run("extract", folder / "c.pcap", *both, "--outfile", tmp_path / "both.jsonl")[0] == 0
    assert json.loads((tmp_path / "both.jsonl.meta.json").read_text())["ip"] == "both"
    assert run("train", tmp_path / "both.jsonl", tmp_path / "both.joblib", "--trees", "5")[0] == 0
    assert json.loads((tmp_path / "both.joblib.meta.json").read_text())["ip"] == "both"

    code, out, said = run("predict", tmp_path / "both.joblib", folder / "c.pcap", "--outfile", "-")
    assert (code, len(out.splitlines())) == (0, 22), said

    for model, *arguments, difference in (
        ("both.joblib", folder / "c.pcap", "--ip", "4", "ip=both, but ip=4"),
        ("both.joblib", folder / "rows.jsonl", "ip=both, but ip=4"),
        ("m.joblib", folder / "c.pcap", *both, "ip=4, but ip=both"),
    ):
        path = tmp_path / model if model == "both.joblib" else folder / model
        code, out, said = run("predict", path, *arguments, "--outfile", "-")
        assert (code, out) == (3, "")
        assert said.splitlines()[-1].startswith(f"flowml: {model} was trained on {difference} is asked")
        code, out, said = run("predict", path, *arguments, "--outfile", "-", "--force")
        assert (code, len(out.splitlines())) == (0, 22)
        assert f"warning: {model} was trained on {difference} is asked" in said


def test_an_input_that_cannot_be_read_is_told_of_and_the_next_one_is(folder: Path, tmp_path: Path) -> None:
    """A line each; exit 3; nothing of the others is missing."""
    rows = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_bytes(rows[0] + b"\n" + b'{"fts": [1]}\n' + rows[1])
    (tmp_path / "text").write_bytes(b"neither\n")

    code, out, said = run(
        *("predict", folder / "m.joblib", tmp_path / "bad.jsonl", tmp_path / "text", tmp_path / "none"),
        *(folder / "rows.jsonl", "--outfile", "-"),
    )

    assert code == 3
    assert len(out.splitlines()) == 1 + len(rows)
    told = [line for line in said.splitlines() if line.startswith("flowml: ")]
    assert len(told) == 3
    assert "bad.jsonl line 3: fts has 1 values, not 17" in told[0]
    assert "text cannot be read as a capture" in told[1]
    assert "none cannot be opened (No such file or directory)" in told[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--features"], "a bare label has no room for features"),
        (["--outfile", "rows.jsonl"], "rows.jsonl is an input, and would be overwritten"),
        (["-", "-"], "standard input (-) is named twice"),
    ],
)
def test_what_makes_no_sense(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """One line, exit 2, and the input is as it was."""
    monkeypatch.chdir(folder)
    before = (folder / "rows.jsonl").read_bytes()
    code, out, err = run("predict", "m.joblib", "rows.jsonl", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert (folder / "rows.jsonl").read_bytes() == before
