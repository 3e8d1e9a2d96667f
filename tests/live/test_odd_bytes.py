"""Names that are not text: whatever a name or a label holds, the output is JSON, a line a connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import frames
from tests.lab import Pair, veth_pair, wait_for
from tests.live.lives import CAPTURE, lives
from tests.tool import FLOWML, flowml

pytestmark = pytest.mark.live

ODD = b'w"\\\x1b[2J\xfe\x01'
"""A quote, a backslash, an escape sequence, what is no UTF-8, a control character: a name of an interface."""
SHOWN = 'w"\\\x1b[2J\ufffd\x01'
"""The same as JSON can hold it."""
LABELS = ['"}\n{"label": "forged"', "\x1b]0;title\x07\u2028\x00", "\\"]


@pytest.fixture(scope="module")
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def model(wire: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three devices, whose labels are what labels should not be."""
    folder = tmp_path_factory.mktemp("odd")
    capture, rows = folder / os.fsdecode(b'c"\\\n\xff.pcap'), folder / "rows.jsonl"
    packets = lives(10, seed=1)
    capture.write_bytes(frames.pcap([(1 + i, frame) for i, frame in enumerate(packets)]))
    extract: list[str | Path] = [FLOWML, "extract", capture, "--outfile", rows]
    subprocess.run(extract, capture_output=True, check=True)
    documents = [json.loads(line) for line in rows.read_bytes().splitlines()]
    assert len(documents) == 30
    assert {document["capture"] for document in documents} == {f'{folder}/c"\\\n\ufffd.pcap'}
    model = folder / "m.joblib"
    subprocess.run([FLOWML, "train", rows, model], capture_output=True, check=True)
    Path(f"{model}.labels.json").write_text(json.dumps(LABELS))
    return model


def test_no_name_and_no_label_breaks_a_line(wire: Pair, model: Path, tmp_path: Path) -> None:
    """On an interface with an odd name, with a model of odd labels: lines, metrics, and what is said."""
    odd = os.fsdecode(ODD)
    wire.right.run(["ip", "link", "set", wire.right.iface, "down"])
    wire.right.run(["ip", "link", "set", wire.right.iface, "name", odd])
    try:
        wire.right.run(["ip", "link", "set", odd, "up"])
        options = ("--model", model, "--format", "record", "--metrics", "9464")
        with flowml(wire.right, "attach", odd, *CAPTURE, *options) as running:
            capture = tmp_path / "lives.pcap"
            capture.write_bytes(frames.pcap([(1 + i, frame) for i, frame in enumerate(lives(3, seed=2))]))
            wire.left.run(["tcpreplay", "--quiet", "--pps", "5000", "-i", wire.left.iface, capture])
            wait_for(lambda: len(running.lines()) == 9, "the predictions")
            fetch = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1]).read())"
            text = wire.right.run([sys.executable, "-c", fetch, "http://127.0.0.1:9464/metrics"])
            assert running.stop() == 0
            records, said = running.lines(), running.err.read_bytes()
    finally:
        wire.right.run(["ip", "link", "set", odd, "down"])
        wire.right.run(["ip", "link", "set", odd, "name", wire.right.iface])

    assert {record["iface"] for record in records} == {SHOWN}
    assert {record["label"] for record in records} <= set(LABELS)
    assert b"\x1b" not in said
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = {sample.labels["interface"] for sample in families["flowml_packets"].samples}
    assert names == {'w"\\\ufffd[2J\ufffd\ufffd'}
