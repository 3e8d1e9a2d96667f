"""A run seen from outside: metrics, alerts, the live view on a terminal, status lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import frames
from tests.lab import Pair, veth_pair, wait_for
from tests.live.lives import CAPTURE, DEVICES, collected, lives, replay
from tests.tool import FLOWML, flowml, run_to_its_end

pytestmark = pytest.mark.live

ADDRESS = "127.0.0.1:9464"  # in a namespace of its own: nobody else is there
_FETCH = (
    "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=20).read().decode())"
)


@pytest.fixture(scope="module")
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="module")
def model(wire: Pair, folder: Path) -> Path:
    """A forest, trained on what was collected."""
    data, path = collected(wire, folder / "train.jsonl", 20), folder / "model.joblib"
    subprocess.run([FLOWML, "train", data, path], capture_output=True, check=True)
    return path


def scrape(wire: Pair) -> dict[str, dict[str, float]]:
    """By name of the metric: its samples by their last label, "" where it has none."""
    text = wire.right.run([sys.executable, "-c", _FETCH, f"http://{ADDRESS}/metrics"])
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "interface"}
            found.setdefault(sample.name, {})["".join(labels.values())] = sample.value
    return found


def test_the_metrics_are_the_account(wire: Pair, model: Path, folder: Path) -> None:
    """Packets, connections, table, lines and labels equal what the summary and the output say."""
    options = ("--model", model, "--metrics", ADDRESS)
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options) as running:
        wait_for(lambda: "metrics at http://127.0.0.1:9464/metrics" in running.stderr(), "the metrics")
        replay(wire, lives(10, seed=2), folder)
        replay(wire, [frames.tcp("S", sport=60_000 + i) for i in range(7)], folder)
        wait_for(lambda: len(running.lines()) == 30, "the predictions")
        wait_for(lambda: scrape(wire)["flowml_packets_total"]["tracked"] == 157, "the packets")
        found = scrape(wire)
        assert running.stop() == 0
        counters, labels = running.counters(wire.right.iface), running.lines()

    assert {name: n for name, n in found["flowml_packets_total"].items() if n} == {"tracked": 157}
    assert counters["tracked"] == 157
    assert found["flowml_connections_total"]["opened"] == counters["opened"] == 37
    assert found["flowml_connections_total"]["delivered"] == 30
    assert found["flowml_table_connections"] == {"": 7}
    assert found["flowml_connections_ended_total"]["fin"] == 30
    assert found["flowml_lines_total"] == {"": 30}
    assert found["flowml_line_latency_seconds_count"] == {"": 30}
    assert found["flowml_predictions_total"] == {mac: labels.count(mac) for mac in set(labels)}
    assert found["flowml_prediction_seconds_count"][""] >= 1
    assert found["flowml_sweep_seconds_count"][""] >= 1
    assert found["process_resident_memory_bytes"][""] > 10e6


def test_a_port_that_cannot_be_had_is_one_line(wire: Pair, tmp_path: Path) -> None:
    """It is taken before root is given up and before anything is attached."""
    outfile = tmp_path / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile, "--metrics")
    with flowml(wire.right, *arguments[:-2], os.devnull, "--metrics", ADDRESS, own_outfile=True):
        found = run_to_its_end(*arguments, ADDRESS, ns=wire.right.ns)
        refused = f"metrics cannot be served at {ADDRESS} (Address already in use): name another --metrics"
        assert found == (2, f"flowml: {refused}\n")
    for bad in ("192.0.2.1:9464", "nowhere", "1.2.3.4:99999"):
        code, said = run_to_its_end(*arguments, bad, ns=wire.right.ns)
        assert (code, len(said.splitlines())) == (2, 1)
        assert bad in said
    assert not outfile.exists()


def test_sudo_lends_nobody_a_port(wire: Pair) -> None:
    """Below 1024 it is root's own shell that may: who is behind sudo is refused as without it."""
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", os.devnull, "--metrics", "127.0.0.1:99")
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        wait_for(lambda: "metrics at" in running.stderr(), "the metrics")
    code, said = run_to_its_end(*arguments, ns=wire.right.ns, environment={"SUDO_UID": "1"})
    assert (code, "(Permission denied)" in said) == (2, True)


def test_a_swapped_device_is_told_of(wire: Pair, model: Path, folder: Path) -> None:
    """The first device under the MAC of the third: a line for each, and the metric; the own ones are not."""
    first, _, third = DEVICES
    mine, theirs = (bytes.fromhex(mac.replace(":", "")) for mac in (first, third))
    of_the_first = [frame for i, frame in enumerate(lives(10, seed=4)) if i // 5 % len(DEVICES) == 0]
    habit = [frame.replace(mine, theirs) for frame in of_the_first]
    options = ("--model", model, "--alert-mismatch", "--alert-probability", "0.4", "--metrics", ADDRESS)
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options, "--format", "record") as running:
        replay(wire, habit + lives(3, seed=5), folder)
        wait_for(lambda: len(running.lines()) == 19, "the predictions")
        found = scrape(wire)
        assert running.stop() == 0
        records, said = running.lines(), running.stderr()

    expected = [
        record for record in records if record["s_mac"] != record["label"] and record["probability"] >= 0.4
    ]
    alerts = [line for line in said.splitlines() if line.startswith("mismatch: ")]
    assert len(expected) >= 3  # of ten; on a busy machine times, and with them probabilities, are others
    assert len(alerts) == len(expected) == found["flowml_mismatches_total"][""]
    for alert, record in zip(alerts, expected, strict=True):
        assert alert == (
            f"mismatch: {record['s_mac']} on eth0 behaves like {record['label']} "
            f"(probability {record['probability']:.3f}): {record['src_ip']}:{record['src_port']} > "
            f"{record['dst_ip']}:{record['dst_port']}, {record['start']}"
        )


class Terminal:
    """A terminal with flowml in it: tmux, with a server of its own."""

    def __init__(self, folder: Path, wire: Pair, *arguments: str | Path, width: int = 100) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        self.code = folder / "code"
        command = shlex.join(["ip", "netns", "exec", wire.right.ns, str(FLOWML), *map(str, arguments)])
        script = f"{command}; echo $? > {shlex.quote(str(self.code))}; sleep 600"
        size = ["-x", str(width), "-y", "24"]
        self._run("new-session", "-d", *size, "-e", "TERM=screen-256color", script)

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True).stdout

    def text(self) -> str:
        return self._run("capture-pane", "-p")

    def press(self, key: str) -> None:
        self._run("send-keys", key)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@contextlib.contextmanager
def terminal(wire: Pair, *arguments: str | Path) -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory(prefix="flowml-test-") as name:
        found = Terminal(Path(name), wire, *arguments)
        try:
            yield found
        finally:
            found.close()


def test_the_live_view_on_a_terminal(wire: Pair, model: Path, folder: Path, tmp_path: Path) -> None:
    """Refreshed in place, over a resize; Ctrl+C ends it with 0 and leaves the summary, not the picture."""
    outfile = tmp_path / "out.jsonl"
    arguments = ("attach", wire.right.iface, *CAPTURE, "--model", model, "--outfile", outfile)
    with terminal(wire, *arguments) as screen:
        wait_for(lambda: "packets/s" in screen.text(), "the picture", timeout=60)
        replay(wire, lives(10, seed=6), folder)
        wait_for(lambda: " 30 " in screen.text(), "the connections in the picture")
        wait_for(lambda: "s ago" in screen.text(), "the labels in the picture")
        text = screen.text()
        assert all(mac in text for mac in DEVICES)
        for width, height in ((75, 15), (140, 40)):
            screen.resize(width, height)
            before = screen.text()
            wait_for(lambda: screen.text() != before, "a new picture after the resize")  # noqa: B023
            wait_for(lambda: all(screen.text().count(mac) == 1 for mac in DEVICES), "one picture")
        screen.press("C-c")
        wait_for(lambda: screen.code.exists() and screen.code.read_text() == "0\n", "the end")
        wait_for(lambda: "Done. Processed 30 connections" in screen.text(), "the summary")
        text = screen.text()

    assert "packets/s" not in text
    assert "running as nobody" in text
    assert "eth0: tracked 150, opened 30, delivered 30" in text
    assert len([json.loads(line) for line in outfile.read_bytes().splitlines()]) == 30


def test_lines_and_a_picture_do_not_share_a_terminal(wire: Pair, model: Path, folder: Path) -> None:
    """With the output on the same terminal there are status lines; with --quiet not even these."""
    arguments = ("attach", wire.right.iface, *CAPTURE, "--model", model, "--outfile", "-")
    for options, status in (("--status-interval", "1"), True), (("--quiet", "--status-interval", "1"), False):
        with terminal(wire, *arguments, *options) as screen:
            wait_for(lambda: "running as" in screen.text(), "attached", timeout=60)
            replay(wire, lives(2, seed=3), folder)
            wait_for(lambda: screen.text().count('"02:00') == 6, "the lines")
            if status:
                wait_for(lambda: "status: 6 connections and 30 packets" in screen.text(), "status")
            screen.press("C-c")
            wait_for(lambda: "Done. Processed 6 connections" in screen.text(), "the summary")
            assert "packets/s" not in screen.text()
            assert ("status: " in screen.text()) == status
