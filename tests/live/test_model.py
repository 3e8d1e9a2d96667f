"""Collect, train, predict, live; and who the process is when it parses the model."""

from __future__ import annotations

import json
import os
import pickle
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import lab
from tests.lab import Pair, veth_pair, wait_for
from tests.live.lives import CAPTURE, DEVICES, collected, lives, replay
from tests.tool import FLOWML, Running, flowml, run_to_its_end

pytestmark = pytest.mark.live


def credentials(running: Running) -> dict[str, list[str]]:
    """What /proc says of the process: ids, groups, capabilities."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}


@pytest.fixture(scope="module")
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def model(wire: Pair, folder: Path) -> Path:
    """A forest, trained on what was collected."""
    data, path = collected(wire, folder / "train.jsonl", 20), folder / "model.joblib"
    done = subprocess.run([FLOWML, "train", data, path], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "3 classes" in done.stderr
    return path


def test_a_forest_of_collected_connections_predicts_live(wire: Pair, model: Path, folder: Path) -> None:
    """The labels are the MACs that they came from; the default line is the bare label.

    Times are noise here, and some trees look at them: a few may be wrong on a busy machine.
    """
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", model) as running:
        replay(wire, lives(10, seed=2), folder)
        wait_for(lambda: len(running.lines()) == 30, "the predictions")
        assert running.stop() == 0

        labels = running.lines()
        right = sum(label == mac for label, mac in zip(labels, list(DEVICES) * 10, strict=True))
        assert right >= 26
        assert set(labels) == set(DEVICES)
        assert running.outfile.read_bytes().splitlines()[0] == json.dumps(labels[0]).encode()
        assert "Done. Processed 30 connections" in running.stderr()


FEW = ("d_pkt_cnt", "dur", "s_bytes_sum")


@pytest.fixture(scope="module")
def small(model: Path, folder: Path) -> Path:
    """A forest of three features, trained on the same."""
    path = folder / "small.joblib"
    command: list[str | Path] = [
        FLOWML,
        "train",
        folder / "train.jsonl",
        path,
        "--features",
        ",".join(FEW),
        "--trees",
        "20",
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return path


def programs(running: Running, wire: Pair) -> int:
    """Bytes of what the kernel translated of the programs on the interface."""
    listed = json.loads(wire.right.run(["bpftool", "--json", "net", "show"]))[0]
    ids = {one.get("id", one.get("prog_id")) for kind in ("xdp", "tc") for one in listed[kind]}
    shown = json.loads(wire.right.run(["bpftool", "--json", "prog", "show"]))
    return sum(one["bytes_xlated"] for one in shown if one["id"] in ids)


def test_only_what_the_model_needs_is_counted(wire: Pair, model: Path, small: Path, folder: Path) -> None:
    """A model of three features answers as offline, from smaller programs; in records with the features, all
    17 are there all the same, and without them whether it was TLS."""
    sizes, found = [], []
    for options in (
        (small, "--format", "label"),
        (small, "--format", "record"),
        (small, "--format", "record", "--features"),
        (model, "--format", "label"),
    ):
        with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", *options) as running:
            sizes.append(programs(running, wire))
            replay(wire, lives(3, seed=2), folder)
            wait_for(lambda running=running: len(running.lines()) == 9, "the predictions")  # type: ignore[misc]
            assert running.stop() == 0
            found.append(running.lines())

    labels, records, full, _ = found
    assert labels == [record["label"] for record in records] == list(DEVICES) * 3
    assert all(record["tls"] for record in records + full)
    assert all(record["s_ttl_mean"] == 64 and record["tcp_rtt"] > 0 for record in full)
    assert sizes[0] == sizes[1] < sizes[2] == sizes[3]


def test_a_record_says_what_was_seen_and_what_was_predicted(wire: Pair, model: Path, folder: Path) -> None:
    """With --format record --features."""
    options = ("--model", model, "--format", "record", "--features")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options) as running:
        replay(wire, lives(1, seed=3), folder)
        wait_for(lambda: len(running.lines()) == 3, "the predictions")
        running.stop()
        records = running.lines()

    for record, mac in zip(records, DEVICES, strict=True):
        assert (record["s_mac"], record["tls"]) == (mac, True)
        assert record["label"] in DEVICES
        assert (record["iface"], record["reason"]) == (wire.right.iface, "fin")
        assert 1 / len(DEVICES) <= record["probability"] <= 1
        assert (record["s_pkt_cnt"], record["d_pkt_cnt"], record["proto"]) == (3, 2, 6)


def test_it_runs_as_nobody_with_no_right_and_no_way_back(wire: Pair, model: Path) -> None:
    """Started by root itself: all four ids, the groups, all capability sets, no_new_privs."""
    nobody = pwd.getpwnam("nobody")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", model) as running:
        found = credentials(running)
        tasks = [task.read_text() for task in Path(f"/proc/{running.process.pid}/task").glob("*/status")]

    assert all("NoNewPrivs:\t1" in task and "CapEff:\t0000000000000000" in task for task in tasks)
    assert found["Uid"] == [str(nobody.pw_uid)] * 4
    assert found["Gid"] == [str(nobody.pw_gid)] * 4
    assert "0" not in found["Groups"]
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"):
        assert found[name] == ["0" * 16]
    assert found["NoNewPrivs"] == ["1"]


def test_behind_sudo_it_runs_as_that_user_and_the_output_is_theirs(wire: Pair, tmp_path: Path) -> None:
    """SUDO_UID tells; the file belongs to the user, not to root."""
    games = pwd.getpwnam("games")
    sudo = {"SUDO_UID": str(games.pw_uid), "SUDO_GID": str(games.pw_gid), "SUDO_USER": "games"}
    tmp_path.chmod(0o777)
    Path(tmp_path.parent).chmod(0o755)
    Path(tmp_path.parent.parent).chmod(0o755)
    outfile = tmp_path / "mine.jsonl"
    with flowml(
        wire.right,
        "collect",
        wire.right.iface,
        *CAPTURE,
        "--outfile",
        outfile,
        environment=sudo,
        own_outfile=True,
    ) as running:
        assert credentials(running)["Uid"] == [str(games.pw_uid)] * 4
        assert "running as games" in running.stderr()

    assert outfile.stat().st_uid == games.pw_uid


def test_sudo_lends_nobody_a_file_that_is_not_theirs(wire: Pair, model: Path, tmp_path: Path) -> None:
    """A user behind sudo cannot read root's model, nor write into root's folder."""
    sudo = {"SUDO_UID": str(pwd.getpwnam("games").pw_uid)}
    secret = tmp_path / "secret.joblib"
    secret.write_bytes(model.read_bytes())
    secret.chmod(0o600)

    code, said = run_to_its_end(
        "attach",
        wire.right.iface,
        "--model",
        secret,
        "--outfile",
        "/dev/null",
        ns=wire.right.ns,
        environment=sudo,
    )
    assert (code, len(said.splitlines())) == (3, 1)
    assert "secret.joblib" in said

    code, said = run_to_its_end(
        "collect", wire.right.iface, "--outfile", "/root/x.jsonl", ns=wire.right.ns, environment=sudo
    )
    assert (code, len(said.splitlines())) == (4, 1)
    assert "/root/x.jsonl cannot be written by games" in said
    assert not Path("/root/x.jsonl").exists()


class Spy:
    """A pickle that writes down who runs it, and goes on as the model in another file."""

    def __init__(self, model: Path, log: Path) -> None:
        self.code = (
            f"(open({str(log)!r}, 'a').write(repr([__import__('os').getresuid(),"
            " __import__('os').getresgid(), open('/proc/self/status').read()])),"
            f" __import__('joblib').load({str(model)!r}))[1]"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self.code,)


def test_root_never_runs_the_pickle(wire: Pair, model: Path, tmp_path: Path) -> None:
    """A model that records who unpickles it: once, nobody, without capabilities."""
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent, model.parent):
        path.chmod(0o755)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    log, spy = tmp_path / "open" / "log", tmp_path / "spy.joblib"
    spy.write_bytes(pickle.dumps(Spy(model, log)))

    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", spy) as running:
        wait_for(log.exists, "the pickle to be run")
        running.stop()

    nobody = pwd.getpwnam("nobody")
    text = log.read_text()
    assert text.count("CapEff") == 1
    assert text.startswith(f"[({nobody.pw_uid}, {nobody.pw_uid}, {nobody.pw_uid}), ({nobody.pw_gid},")
    assert "CapEff:\\t0000000000000000" in text
    assert "CapPrm:\\t0000000000000000" in text


ATTEMPTS = """
import ctypes, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if libc[name](*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def connect():
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9464))
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"secret", ("127.0.0.1", 9464))
def bpf():
    call("syscall", 321, 5, bytes(128), 128)
attempts = {
    "exec": lambda: subprocess.run(["true"], close_fds=False),
    "connect": connect,
    "send": send,
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "bpf": bpf,
    "ptrace": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "unshare": lambda: call("unshare", 0x10000000),
    "root": lambda: os.setuid(0),
    "root group": lambda: os.setgroups([0]),
    "capability": lambda: call("prctl", 47, ctypes.c_ulong(2), ctypes.c_ulong(12), 0, 0),
    "bounding set": lambda: call("prctl", 28, ctypes.c_ulong(0), 0, 0, 0),
    "the file of the shadows": lambda: open("/etc/shadow"),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except PermissionError:
        found[name] = "refused"
    except OSError as error:
        found[name] = str(error)
open(LOG, "w").write(repr(found))
"""


class Burglar:
    """A pickle that tries what it should not get done, and writes down what became of it."""

    def __init__(self, model: Path, log: Path) -> None:
        self.code = (
            f"(exec({ATTEMPTS!r}, {{'LOG': {str(log)!r}}}), __import__('joblib').load({str(model)!r}))[1]"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self.code,)


def test_a_pickle_cannot_get_out(wire: Pair, model: Path, tmp_path: Path) -> None:
    """No program, no connection, no other process, no way to be root again: each is refused."""
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent, model.parent):
        path.chmod(0o755)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    log, burglar = tmp_path / "open" / "log", tmp_path / "burglar.joblib"
    burglar.write_bytes(pickle.dumps(Burglar(model, log)))

    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, "--model", burglar) as running:
        assert "running as nobody, confined by seccomp" in running.stderr()
        wait_for(lambda: log.exists() and log.read_text().endswith("}"), "the pickle to have tried")
        assert running.stop() == 0

    found = eval(log.read_text())
    assert len(found) == 12
    assert set(found.values()) == {"refused"}, found


def test_with_three_capabilities_instead_of_root(wire: Pair, model: Path, tmp_path: Path) -> None:
    """As a service has them: each is needed, all of them are gone afterwards, from every thread."""
    folder = tmp_path / "open"
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent, model.parent):
        path.chmod(0o755)
    folder.mkdir()
    folder.chmod(0o777)
    command: list[str | Path] = [
        "attach",
        wire.right.iface,
        *CAPTURE,
        "--model",
        model,
        "--outfile",
        folder / "out.jsonl",
    ]

    def start(*capabilities: str) -> lab.Process:
        mask = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        who = ["--reuid", "games", "--regid", "games", "--clear-groups"]
        sets = [f"--{name}={mask}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
        return wire.right.popen(["setpriv", *who, *sets, FLOWML, *command], err=folder / "err")

    needed = ("bpf", "net_admin", "perfmon")
    for missing in needed:
        process = start(*(name for name in needed if name != missing))
        assert process.wait(60) == 5
        assert f"CAP_{missing.upper()}" in (folder / "err").read_text()
    process = start(*needed)
    try:
        wait_for(lambda: "running as games" in (folder / "err").read_text(), "attached", process=process)
        for task in Path(f"/proc/{process.pid}/task").glob("*/status"):
            for name in ("CapPrm", "CapEff", "CapAmb"):
                assert f"{name}:\t0000000000000000" in task.read_text()
    finally:
        assert lab.end(process) == 0


THREADED = """
import threading
from collector import privileges
from collector.errors import PrivilegeError
wait = threading.Event()
threading.Thread(target=wait.wait).start()
try:
    privileges.drop(privileges.runner())
except PrivilegeError as error:
    print(error)
finally:
    wait.set()
"""


def test_a_thread_that_keeps_capabilities_is_noticed() -> None:
    """Capabilities are each thread's own; where it is not root that is given up, nobody else takes them."""
    caps = "-all,+bpf,+net_admin,+perfmon"
    who = ["--reuid", "games", "--regid", "games", "--clear-groups"]
    sets = [f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    command = ["setpriv", *who, *sets, sys.executable, "-c", THREADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a thread that a library made keeps capabilities: run it as root")


def test_a_user_can_be_named_but_not_root(wire: Pair, model: Path) -> None:
    """--user."""
    options = ("--model", model, "--user", "games")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options) as running:
        assert credentials(running)["Uid"] == [str(pwd.getpwnam("games").pw_uid)] * 4

    for name, said in (("root", "never parsed as root"), ("nosuchuser", "no user nosuchuser here")):
        code, text = run_to_its_end(
            "attach",
            wire.right.iface,
            "--model",
            model,
            "--user",
            name,
            "--outfile",
            "/dev/null",
            ns=wire.right.ns,
        )
        assert (code, len(text.splitlines())) == (5, 1)
        assert said in text


def test_sudo_lends_nobody_another_account(wire: Pair, tmp_path: Path) -> None:
    """Who is behind sudo may name themselves and nobody; root's own shell may name any account."""
    sudo = {"SUDO_UID": str(pwd.getpwnam("games").pw_uid)}
    where = ("collect", wire.right.iface, "--outfile", "/dev/null")

    code, said = run_to_its_end(*where, "--user", "daemon", ns=wire.right.ns, environment=sudo)

    assert (code, len(said.splitlines())) == (5, 1)
    assert "games, who is behind sudo, cannot go on as daemon: name games or nobody" in said
    for name in ("games", "nobody"):
        with flowml(wire.right, *where, "--user", name, environment=sudo, own_outfile=True) as running:
            assert f"running as {name}" in running.stderr()


BAD_MODELS = [
    ("missing", ["--model", "{folder}/none.joblib"], 3, "none.joblib"),
    ("corrupt", ["--model", "{folder}/corrupt.joblib"], 3, "corrupt.joblib"),
    ("changed after training", ["--model", "{folder}/changed.joblib"], 3, "changed after training"),
    ("17 features", ["--model", "{folder}/narrow.joblib"], 3, "features"),
    ("other features", ["--model", "{folder}/renamed.joblib"], 3, "features"),
    ("other filter", ["--model", "{model}", "--filter", "tcp"], 3, "or go on all the same with --force"),
    ("short labels", ["--model", "{model}", "--labels-file", "{folder}/short.json"], 3, "short.json"),
    ("no model", [], 2, "which model?"),
]


@pytest.mark.parametrize(("name", "options", "code", "said"), BAD_MODELS, ids=[bad[0] for bad in BAD_MODELS])
def test_a_model_that_does_not_fit_is_refused(
    wire: Pair, model: Path, tmp_path: Path, name: str, options: list[str], code: int, said: str
) -> None:
    """One line, a code that is not 0, and nothing left attached."""
    import joblib
    import numpy as np
    from sklearn.tree import DecisionTreeClassifier

    (tmp_path / "corrupt.joblib").write_bytes(model.read_bytes()[:1000])
    (tmp_path / "short.json").write_text('["one"]')
    joblib.dump(DecisionTreeClassifier().fit(np.eye(3), [0, 1, 0]), tmp_path / "narrow.joblib")
    meta = model.with_name(model.name + ".meta.json").read_text()
    for copy, text in (("changed", meta), ("renamed", meta.replace('"s_load"', '"load"'))):
        (tmp_path / f"{copy}.joblib").write_bytes(model.read_bytes() + (b" " if copy == "changed" else b""))
        (tmp_path / f"{copy}.joblib.meta.json").write_text(text)
    filled = [option.format(folder=tmp_path, model=model) for option in options]

    outfile = ("--outfile", os.devnull)
    found, text = run_to_its_end("attach", wire.right.iface, *filled, *outfile, ns=wire.right.ns)

    (last,) = [line for line in text.splitlines() if line.startswith("flowml: ")]
    assert (found, text.splitlines()[-1]) == (code, last)
    assert said in last
    assert "Traceback" not in text
    assert "prog/xdp" not in wire.right.run(["ip", "link", "show", wire.right.iface])


@pytest.mark.parametrize("suffix", ["", ".labels.json", ".meta.json"])
@pytest.mark.parametrize(
    "how", [("attach", "eth0", "--model"), ("predict",), ("evaluate",), ("run-transformer", "--weights")]
)
def test_root_takes_no_model_that_others_can_change(
    wire: Pair, model: Path, tmp_path: Path, how: tuple[str, ...], suffix: str
) -> None:
    """Nor labels nor a contract: one line that names the file, whose it is, its mode, and what to do."""
    copy = tmp_path / "m.joblib"
    for name in ("", ".labels.json", ".meta.json"):
        Path(f"{copy}{name}").write_bytes(Path(f"{model}{name}").read_bytes())
    bad = Path(f"{copy}{suffix}")
    bad.chmod(0o666)
    rest = {"attach": [], "run-transformer": ["--test-file", os.devnull]}.get(how[0], [os.devnull])

    code, said = run_to_its_end(*how, copy, *rest, ns=wire.right.ns)

    refused = f"{bad} is not loaded, others can change it: {bad} belongs to root, group root, mode 0666"
    assert (code, said) == (3, f"flowml: {refused}; `chmod go-w {bad}`\n")
    assert "prog/xdp" not in wire.right.run(["ip", "link", "show", wire.right.iface])


def test_behind_sudo_the_model_may_be_the_user_s(wire: Pair, model: Path, tmp_path: Path) -> None:
    """`attach` runs as who that is; `predict` stays root, and takes root's alone."""
    games = pwd.getpwnam("games")
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    copy = tmp_path / "m.joblib"
    for name in ("", ".labels.json", ".meta.json"):
        Path(f"{copy}{name}").write_bytes(Path(f"{model}{name}").read_bytes())
        os.chown(f"{copy}{name}", games.pw_uid, games.pw_gid)
    sudo = {"SUDO_UID": str(games.pw_uid)}
    options = ("--model", copy, "--outfile", os.devnull)
    with flowml(
        wire.right, "attach", wire.right.iface, *CAPTURE, *options, environment=sudo, own_outfile=True
    ) as running:
        assert "running as games" in running.stderr()

    code, said = run_to_its_end("predict", copy, os.devnull, environment=sudo)
    assert (code, len(said.splitlines())) == (3, 1)
    assert f"{copy} belongs to games, mode 0644, and has to belong to root;" in said


def test_force_attaches_a_model_that_does_not_fit(wire: Pair, model: Path, folder: Path) -> None:
    """With --force the same difference is a warning, and predictions are written."""
    options = ("--model", model, "--filter", "tcp", "--force")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options) as running:
        replay(wire, lives(1, seed=5), folder)
        wait_for(lambda: len(running.lines()) == 3, "the predictions")
        assert running.stop() == 0
        assert "warning: model.joblib was trained on filter=tls, but filter=tcp is asked" in running.stderr()


def test_the_predictions_are_the_same_as_those_of_scikit_learn(wire: Pair, model: Path, folder: Path) -> None:
    """Live labels and probabilities, against predict_proba on the features that were written beside them."""
    import joblib
    import numpy as np

    from collector.features import NAMES

    options = ("--model", model, "--format", "record", "--features")
    with flowml(wire.right, "attach", wire.right.iface, *CAPTURE, *options) as running:
        replay(wire, lives(5, seed=4), folder)
        wait_for(lambda: len(running.lines()) == 15, "the predictions")
        running.stop()
        records = running.lines()

    X = np.array([[record[name] for name in NAMES] for record in records], dtype=float)
    forest = joblib.load(model)
    labels = json.loads(model.with_name(model.name + ".labels.json").read_text())
    expected = forest.predict_proba(X)
    assert [record["label"] for record in records] == [labels[i] for i in expected.argmax(axis=1)]
    # Small batches are added up in float32.
    assert np.abs([record["probability"] for record in records] - expected.max(axis=1)).max() < 1e-6
