"""SIGHUP: a terminal that closes ends a run; a service opens its output and its model anew."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from collector.features import NAMES
from ml.contract import flowml_features
from ml.model import save
from tests import frames
from tests.lab import Pair, veth_pair, wait_for
from tests.live.common import CAPTURE, connection, send
from tests.ml import samples
from tests.tool import Running, flowml

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that belongs to nobody, as whom a run of root's goes on."""
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    folder = tmp_path / "shared"
    folder.mkdir()
    shutil.chown(folder, "nobody")
    return folder


def sudo() -> dict[str, str]:
    """The environment of who is behind sudo: a user of no account in particular."""
    return {"SUDO_UID": str(pwd.getpwnam("games").pw_uid)}


def hang_up(running: Running, answer: str) -> None:
    """SIGHUP, and wait for what it says to it, once more than before."""
    before = running.stderr().count(answer)
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: running.stderr().count(answer) > before, answer)


def ports(path: Path) -> list[int]:
    return [json.loads(line)["src_port"] - 1024 for line in path.read_bytes().splitlines()]


def test_a_terminal_that_closes_ends_it_with_everything_written(wire: Pair, tmp_path: Path) -> None:
    """The kernel sends SIGHUP then; it is taken as Ctrl+C is."""
    ours, theirs = os.openpty()
    with flowml(wire.right, "collect", wire.right.iface, *CAPTURE, terminal=theirs) as running:
        os.close(theirs)
        send(wire, [*connection(0), frames.tcp("S", sport=9)], tmp_path)
        wait_for(lambda: len(running.lines()) == 1, "the first connection")

        os.close(ours)
        assert running.process.wait(60) == 0
        assert [line["reason"] for line in running.lines()] == ["rst", "shutdown"]
        assert "Done. Processed 2 connections" in running.stderr()


def test_a_rotated_file_is_let_go_of(wire: Pair, shared: Path, tmp_path: Path) -> None:
    """Renamed, lines go on into it; with SIGHUP into a new one of the old name, which is the user's."""
    shutil.chown(shared, "games")
    outfile, rotated = shared / "out.jsonl", shared / "out.jsonl.1"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True, environment=sudo()) as running:
        send(wire, connection(0), tmp_path)
        wait_for(lambda: ports(outfile) == [0], "the first line")
        outfile.rename(rotated)
        send(wire, connection(1), tmp_path)
        wait_for(lambda: ports(rotated) == [0, 1], "the second, in the file that was open")

        hang_up(running, f"SIGHUP: {outfile} is opened anew")
        send(wire, connection(2), tmp_path)
        wait_for(lambda: ports(outfile) == [2], "the third, in a new file")

        assert running.stop() == 0
        assert ports(rotated) == [0, 1]
        assert outfile.stat().st_uid == pwd.getpwnam("games").pw_uid
        assert "Done. Processed 3 connections" in running.stderr()


def test_a_folder_out_of_reach_does_not_keep_it_from_opening_anew(
    wire: Pair, shared: Path, tmp_path: Path
) -> None:
    """The way to the folder was gone with root; the folder was kept open."""
    folder = shared / "private" / "writable"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    folder.parent.chmod(0o700)
    outfile = folder / "out.jsonl"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        outfile.unlink()
        hang_up(running, f"SIGHUP: {outfile} is opened anew")
        send(wire, connection(0), tmp_path)
        wait_for(lambda: outfile.exists() and ports(outfile) == [0], "a line in the new file")
        assert running.stop() == 0


def test_a_file_that_cannot_be_opened_anew_goes_on_as_it_is(wire: Pair, tmp_path: Path) -> None:
    """Root's folder, and the process is nobody by now: said, and nothing is lost."""
    outfile, rotated = tmp_path / "out.jsonl", tmp_path / "out.jsonl.1"
    arguments = ("collect", wire.right.iface, *CAPTURE, "--outfile", outfile)
    with flowml(wire.right, *arguments, own_outfile=True) as running:
        outfile.rename(rotated)
        hang_up(running, f"SIGHUP: {outfile} cannot be opened anew by nobody (Permission denied)")
        send(wire, connection(0), tmp_path)
        wait_for(lambda: ports(rotated) == [0], "a line in the file that was open")
        assert running.stop() == 0


def model(path: Path, label: str, names: Sequence[str] = NAMES) -> None:
    """A model of these features that says `label` of everything, with its labels and its contract."""
    estimator = DummyClassifier(strategy="constant", constant=0).fit(np.zeros((1, len(names))), [0])
    contract = samples.contract(
        features=flowml_features(names),
        classes={label: 1},
        filter="tcp",
        estimator="sklearn.dummy.DummyClassifier",
        parameters={},
    )
    save(path, estimator, [label], contract)


def predicted(running: Running, count: int) -> list[str]:
    wait_for(lambda: len(running.lines()) == count, f"{count} predictions")
    found: list[str] = running.lines()
    return found


def test_a_new_model_is_taken_and_a_bad_one_is_not(wire: Pair, shared: Path, tmp_path: Path) -> None:
    """Labels come from the new one after SIGHUP; one that is broken, that is half replaced, that is for
    another filter, or that may not be read, is told of, and the one in use stays."""
    path = shared / "model.joblib"
    model(path, "old")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", path) as running:
        send(wire, connection(0), tmp_path)
        assert predicted(running, 1) == ["old"]

        model(path, "new")
        send(wire, connection(1), tmp_path)
        assert predicted(running, 2) == ["old", "old"]
        hang_up(running, "SIGHUP: model.joblib is loaded anew, 1 classes")
        send(wire, connection(2), tmp_path)
        assert predicted(running, 3)[-1] == "new"

        good, meta = path.read_bytes(), path.with_name("model.joblib.meta.json")
        told = meta.read_bytes()
        path.write_bytes(good + b"\0")
        hang_up(running, "SIGHUP: the model in use stays: model.joblib changed after training")
        path.write_bytes(good)
        meta.write_bytes(told.replace(b'"tcp"', b'"tls"'))
        hang_up(running, "SIGHUP: the model in use stays: model.joblib was trained on filter=tls")
        meta.write_bytes(b"{")
        hang_up(running, "SIGHUP: the model in use stays: model.joblib.meta.json")
        path.chmod(0o600)
        hang_up(running, "SIGHUP: the model in use stays: cannot read")
        send(wire, connection(3), tmp_path)
        assert predicted(running, 4)[-1] == "new"
        assert running.stop() == 0
        assert "Traceback" not in running.stderr()


def test_a_model_that_looks_at_more_is_not_taken(wire: Pair, shared: Path, tmp_path: Path) -> None:
    """The programs attached keep what the first model looks at; after SIGHUP one that looks at more is told
    of and the one in use stays, and one that looks at no more is taken."""
    path = shared / "model.joblib"
    model(path, "old", ("dur", "s_pkt_cnt"))
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", path) as running:
        model(path, "more", ("dur", "s_ttl_mean", "d_load"))
        hang_up(
            running,
            "SIGHUP: the model in use stays: model.joblib looks at s_ttl_mean, d_load, which the programs "
            "attached do not keep: start flowml again with it",
        )
        send(wire, connection(0), tmp_path)
        assert predicted(running, 1) == ["old"]
        model(path, "fewer", ("d_pkt_cnt",))
        hang_up(running, "SIGHUP: model.joblib is loaded anew, 1 classes")
        send(wire, connection(1), tmp_path)
        assert predicted(running, 2) == ["old", "fewer"]
        assert running.stop() == 0


def test_what_ends_while_a_model_is_loaded_is_not_lost(wire: Pair, shared: Path, tmp_path: Path) -> None:
    """The new model takes its time, until it is told to go on; the ring is full by then."""
    path, go_on, begun = shared / "model.joblib", shared / "go-on", shared / "begun"
    os.mkfifo(go_on)
    settings = tmp_path / "settings.toml"
    settings.write_text("[capture]\nring_bytes = 4096\n")
    model(path, "old")
    options = (*CAPTURE, "--config", settings, "--model", path)
    with flowml(wire.right, "attach", wire.right.iface, *options) as running:
        path.with_name("model.joblib.meta.json").unlink()
        joblib.dump(Slow(begun, go_on, path.with_name("other.joblib")), path)
        joblib.dump(
            DummyClassifier(strategy="constant", constant=0).fit(np.zeros((1, len(NAMES))), [0]),
            path.with_name("other.joblib"),
        )
        running.process.send_signal(signal.SIGHUP)
        wait_for(begun.exists, "loading to begin")
        send(wire, [frame for number in range(101) for frame in connection(number)], tmp_path)
        go_on.write_bytes(b"")
        assert predicted(running, 101) == ["old"] * 101
        assert running.stop() == 0
        assert running.counters()["parked"] >= 101 - 20


class Slow:
    """A pickle that says that it is being loaded, and waits until somebody opens a pipe."""

    def __init__(self, begun: Path, go_on: Path, other: Path) -> None:
        self.code = (
            f"(open({str(begun)!r}, 'w').close(), open({str(go_on)!r}).close(),"
            f" __import__('joblib').load({str(other)!r}))[2]"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return eval, (self.code,)
