"""The demonstration: six devices, real TLS, and flowml telling them apart by how they connect.

`make demo` runs it: root is needed, and nothing outside of the network namespaces that it makes is
touched. The devices connect to a TLS server over a veth pair. flowml sits at the server's end of it,
first to collect training data, then to name the device of every further connection. The model sees 17
numbers of a connection; no address, no port and no MAC is among them.

Exit code 0 if at least 80 % were named right, 1 if not or if a step failed, 130 after Ctrl+C.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import lab, traffic

FLOWML = Path(sys.executable).with_name("flowml")
ENOUGH = 0.8
LINES_SHOWN = 3


class DemoError(Exception):
    """A step of the demonstration did not work out."""


@dataclass(frozen=True, slots=True)
class Habit:
    """A device, how it behaves, and how many connections it makes in each half."""

    device: lab.Device
    profile: traffic.Profile
    connections: int
    words: str


def _habit(number: int, name: str, ttl: int, connections: int, words: str, profile: traffic.Profile) -> Habit:
    device = lab.Device(name, f"02:00:00:00:00:{0x10 + number:02x}", f"10.66.0.{10 + number}", ttl)
    return Habit(device, profile, connections, words)


# Three TTLs for six devices, and two pairs that are close to one another: thermostat and plug, camera and
# doorbell. Every size, pause and count varies around what is given here.
HABITS = (
    _habit(
        1,
        "thermostat",
        255,
        34,
        "one small report, answered at once",
        traffic.Profile(request_bytes=260, answer_bytes=300, delay_ms=24, rest_ms=230, noise=0.2),
    ),
    _habit(
        2,
        "plug",
        255,
        30,
        "one small report, answered slowly",
        traffic.Profile(request_bytes=340, answer_bytes=240, delay_ms=52, rest_ms=240, noise=0.2),
    ),
    _habit(
        3,
        "camera",
        64,
        28,
        "kept open, uploads pictures",
        traffic.Profile(
            request_bytes=9000,
            answer_bytes=90,
            delay_ms=4,
            requests=9,
            pause_ms=55,
            rest_ms=80,
            parallel=2,
            noise=0.3,
        ),
    ),
    _habit(
        4,
        "doorbell",
        64,
        24,
        "kept open, uploads fewer, hangs up with RST",
        traffic.Profile(
            request_bytes=6500,
            answer_bytes=90,
            delay_ms=4,
            requests=6,
            pause_ms=75,
            rest_ms=120,
            parallel=2,
            close="rst",
            noise=0.3,
        ),
    ),
    _habit(
        5,
        "television",
        64,
        26,
        "kept open, downloads a stream",
        traffic.Profile(
            request_bytes=700,
            answer_bytes=60_000,
            delay_ms=8,
            requests=5,
            pause_ms=120,
            rest_ms=60,
            parallel=2,
            noise=0.3,
        ),
    ),
    _habit(
        6,
        "laptop",
        128,
        40,
        "a few requests, pages of all sizes",
        traffic.Profile(
            request_bytes=1100,
            answer_bytes=18_000,
            delay_ms=15,
            requests=2.5,
            pause_ms=90,
            rest_ms=150,
            parallel=2,
            noise=0.5,
        ),
    ),
)

_started = time.monotonic()


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _started:5.1f} s] {text}", flush=True)


def _start_flowml(host: lab.Host, arguments: Sequence[str | Path], err: Path) -> lab.Process:
    """Start flowml on the host's interface; return when its hooks are in."""
    process = host.popen([FLOWML, *arguments], err=err)

    def attached() -> list[str]:
        whole_lines, _, _ = err.read_text().rpartition("\n")
        return [line for line in whole_lines.splitlines() if "attached" in line]

    lab.wait_for(attached, f"flowml {arguments[0]} to attach", 60, process)
    _say(f"flowml {arguments[0]}: {attached()[0]}")
    return process


def _stop_flowml(process: lab.Process, what: str) -> str:
    """Stop flowml as Ctrl+C would; return the last thing it said."""
    code = lab.end(process, signal.SIGINT, timeout=30)
    if code:
        raise DemoError(f"flowml {what} ended with exit code {code}\n{process.last_words()}")
    return process.last_words().rpartition("\n")[2]


def _connect_all(site: lab.DeviceLab, service: traffic.Service, folder: Path, half: int) -> int:
    """Let every device make its connections of one half; return how many that were."""
    running = {
        habit.device.name: traffic.start_device(
            host,
            service,
            habit.profile,
            habit.connections,
            seed=half,
            out=folder / f"{habit.device.name}-{half}.out",
        )
        for habit, host in zip(HABITS, site.devices, strict=True)
    }
    lab.wait_for(lambda: all(p.poll() is not None for p in running.values()), "the devices to finish", 60)
    for name, process in running.items():
        if process.returncode:
            raise DemoError(f"the {name} could not make its connections\n{process.last_words()}")
    lab.wait_for(lambda: traffic.quiet(site.server), "the last connection to close")
    return sum(habit.connections for habit in HABITS)


def _read(path: Path, expected: int) -> list[dict[str, Any]]:
    """The records that flowml wrote: one for each connection that was made."""
    records: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    if len(records) != expected:
        raise DemoError(f"{expected} connections were made, flowml wrote {len(records)} lines")
    return records


def _demonstrate(site: lab.DeviceLab, folder: Path) -> float:
    """Collect, train, attach; return the share of connections that was named right."""
    iface = site.server.iface
    train, model, predictions = (folder / n for n in ("train.jsonl", "model.joblib", "predictions.jsonl"))
    service = traffic.start_server(site.server, folder)
    _say(f"{len(HABITS)} devices and a TLS server are up, IPv4 over a veth pair")

    flowml = _start_flowml(site.server, ["collect", iface, "--outfile", train], folder / "collect.err")
    made = _connect_all(site, service, folder, half=1)
    _say(f"{made} connections made; flowml: {_stop_flowml(flowml, 'collect')}")
    _read(train, made)

    lab.run([FLOWML, "train", train, model])
    _say(f"flowml train: {model.name}, {model.stat().st_size // 1024} KiB")

    attach: list[str | Path] = ["attach", iface, "--model", model, "--format", "record"]
    flowml = _start_flowml(site.server, [*attach, "--outfile", predictions], folder / "attach.err")
    made = _connect_all(site, service, folder, half=2)
    _say(f"{made} connections made; flowml: {_stop_flowml(flowml, 'attach')}\n")
    return _report(predictions, _read(predictions, made))


def _report(path: Path, records: Sequence[dict[str, Any]]) -> float:
    print("The first predictions, --format record:")
    for line in path.read_text().splitlines()[:LINES_SHOWN]:
        print(f"  {line}")
    print("The same, --format label, which is the default:")
    for record in records[:LINES_SHOWN]:
        print(f"  {json.dumps(record['label'])}")

    made = Counter(record["s_mac"] for record in records)
    right = Counter(record["s_mac"] for record in records if record["label"] == record["s_mac"])
    print("\n  device       named right")
    for habit in HABITS:
        mac = habit.device.mac
        print(f"  {habit.device.name:<12} {right[mac]:4} of {made[mac]}")
    share = right.total() / made.total()
    print(f"\n{right.total()} of {made.total()} connections named right: {share:.1%}.", end=" ")
    print(f"Always answering the commonest device: {max(made.values()) / made.total():.1%}.")
    return share


def _give_to_caller(folder: Path) -> None:
    """Behind sudo, flowml opens files with the rights of the user who called: let them be the owner's."""
    if "SUDO_UID" in os.environ:
        os.chown(folder, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", -1)))


def _introduce() -> None:
    print("flowml tells six devices apart by how their TLS connections behave.\n")
    print(f"  {'device':<12} {'MAC':<18} {'TTL':<4} habit")
    for habit in HABITS:
        device = habit.device
        print(f"  {device.name:<12} {device.mac:<18} {device.ttl:<4} {habit.words}")
    print(flush=True)


def main() -> int:
    try:
        if not FLOWML.exists():
            raise DemoError(f"there is no {FLOWML}: install the project into this Python first")
        _introduce()
        with tempfile.TemporaryDirectory(prefix="flowml-demo-") as name:
            folder = Path(name)
            _give_to_caller(folder)
            with lab.device_lab([habit.device for habit in HABITS]) as site:
                share = _demonstrate(site, folder)
        if share < ENOUGH:
            raise DemoError(f"fewer than {ENOUGH:.0%} were named right")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # more of them would only spoil the exit code
        print("\ndemo: interrupted; everything it made is gone", file=sys.stderr)
        return 130
    except (DemoError, lab.LabError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    _say("everything that the demonstration made is gone again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
