"""What flowml on an interface leaves of its throughput and of its request rate.

    python -m tests.bench.wire [--rounds N] [--json FILE]

Needs iperf3 and sockperf.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from collector import kernel
from collector.hooks import _ATTACH_TCX, _ATTACH_XDP, _XDP_MODES
from tests.bench.rounds import Found, aim, ratios, run, spread, table
from tests.bench.run_times import counting, ns_a_run
from tests.bench.walking import load
from tests.lab import Host, Pair, end, two_hosts, wait_for
from tests.tool import flowml

TITLE = "Through an interface"
HOW = """\
A client and a server, each in a namespace and on a core of its own, with a veth pair between them and
offloads as they are by default. On the server's interface is `flowml collect --filter tcp`, both
directions, or an XDP and a TC program that only pass, or nothing. iperf3 sends one TCP stream to the
server, three times, then the other way; sockperf sends 64 bytes and waits for 64, over and over, for a
second: its rate is that of the median round trip, so that a moment in which the machine did something else
does not count. To the server the stream goes once more while the kernel counts what the programs take a
run, some 20 ns of it for the counting: that is what a segment costs between all else that the kernel does
with it, and with the caches as that leaves them."""

SENT = {True: "1G", False: "300M"}
"""Bytes of a stream, from the server and to it: about half a second."""
IN_TURNS = 3
PORT = 5001
EMPTY = "--empty"
TRIES = 5
"""Of sockperf, which answers nothing where a busy machine leaves it too few round trips."""

FLOWML, PASSING, NOTHING = "flowml collect", "empty XDP and TC programs", "nothing attached"
IN, OUT, REQUESTS = "to the server, Gbit/s", "from the server, Gbit/s", "requests, thousand/s"
PROGRAMS = {FLOWML: ("flowml_xdp", "flowml_tc"), PASSING: ("empty_ingress", "empty_egress")}


def attach_empty(iface: str) -> None:
    """Attaches programs that only pass, as flowml attaches its own, until it is ended."""
    module = load("empty.bpf.c")
    index = socket.if_nametoindex(iface)
    ingress = kernel.load_xdp("empty_ingress", module.dump_func("empty_ingress"))
    egress = module.load_func("empty_egress", module.SCHED_CLS).fd
    kernel.create_link(ingress, index, _ATTACH_XDP, _XDP_MODES["native"])
    kernel.create_link(egress, index, _ATTACH_TCX["egress"])
    print("ready", flush=True)
    signal.pause()


@contextmanager
def passing(host: Host) -> Iterator[None]:
    """Programs that only pass on the interface of a host."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        process = host.popen([sys.executable, "-m", "tests.bench.wire", EMPTY, host.iface], out=out)
        try:
            wait_for(out.read_text, "the empty programs", process=process)
            yield
        finally:
            end(process)


def cores() -> tuple[str, str]:
    """The client's, and the server's."""
    usable = sorted(os.sched_getaffinity(0))
    return str(usable[0]), str(usable[-1])


def throughput(wire: Pair, *, reverse: bool = False) -> float:
    """Gbit/s of one TCP stream."""
    command = ["taskset", "-c", cores()[0], "iperf3", "-J", "-c", wire.right.ip, "-n", SENT[reverse]]
    said = json.loads(wire.left.run([*command, *(["-R"] if reverse else [])]))
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9


def requests(wire: Pair) -> float:
    """Thousand requests a second, one after the other, at the median of their round trips."""
    where = ["--tcp", "-i", wire.right.ip, "-p", str(PORT), "-m", "64", "-t", "1"]
    for _ in range(TRIES):
        said = wire.left.run(["taskset", "-c", cores()[0], "sockperf", "ping-pong", *where])
        half = re.search(r"percentile 50\.000 = +([\d.]+)", said)  # microseconds: half a round trip
        if half:
            return 1e3 / (2 * float(half[1]))
    raise SystemExit(f"sockperf measured nothing: {said}")


@contextmanager
def servers(host: Host) -> Iterator[None]:
    """What answers at the server."""
    core = ["taskset", "-c", cores()[1]]
    answering = ["sockperf", "server", "--tcp", "-i", host.ip, "-p", str(PORT)]
    processes = [host.popen([*core, *command]) for command in (["iperf3", "-s"], answering)]
    listening = ["ss", "-Htln"]
    wait_for(lambda: len(host.run(listening).splitlines()) == len(processes), "the servers to listen")
    try:
        yield
    finally:
        for process in processes:
            end(process)


def measure(rounds: int) -> Found:
    """Throughput and request rate, by load and by what is attached."""
    loads: dict[str, Callable[[Pair], float]] = {
        IN: lambda wire: statistics.median(throughput(wire) for _ in range(IN_TURNS)),
        OUT: lambda wire: throughput(wire, reverse=True),
        REQUESTS: requests,
    }
    found: dict[str, dict[str, list[float]]] = {
        load: {name: [] for name in (FLOWML, PASSING, NOTHING)} for load in loads
    }
    runs: dict[str, list[float]] = {program: [] for pair in PROGRAMS.values() for program in pair}
    with two_hosts() as wire, servers(wire.right):
        attached: dict[str, Callable[[], AbstractContextManager[object]]] = {
            FLOWML: lambda: flowml(wire.right, "collect", wire.right.iface, "--filter", "tcp"),
            PASSING: lambda: passing(wire.right),
            NOTHING: nullcontext,
        }
        names = list(attached)
        for number in range(rounds):
            for name in names[number % 3 :] + names[: number % 3]:
                with attached[name]():
                    for load_name, load_once in loads.items():
                        found[load_name][name].append(load_once(wire))
                    if name in PROGRAMS:
                        with counting():
                            throughput(wire)
                        for program in PROGRAMS[name]:
                            runs[program].append(ns_a_run(program))
    return {"loads": found, "ns_a_run": runs, "aims": aims(found)}


def aims(found: dict[str, dict[str, list[float]]]) -> list[Found]:
    shares = {
        name: statistics.median(ratios(values[FLOWML], values[PASSING])) for name, values in found.items()
    }
    return [
        aim(
            f"{name.partition(',')[0]}, of that with empty programs",
            "at least 0.95",
            f"{share:.3f}",
            reached=share >= 0.95,
        )
        for name, share in shares.items()
    ]


def markdown(found: Found) -> str:
    loads = found["loads"]
    rows: list[list[object]] = [
        [name, *(spread(loads[load_name][name], 1) for load_name in loads)]
        for name in (FLOWML, PASSING, NOTHING)
    ]
    rows += [
        [f"flowml, of {other}", *(spread(ratios(one[FLOWML], one[other]), 3) for one in loads.values())]
        for other in (PASSING, NOTHING)
    ]
    runs = found["ns_a_run"]
    taken: list[list[object]] = [
        [name, *(spread(runs[program], 0) for program in programs)] for name, programs in PROGRAMS.items()
    ]
    text = table(["attached", *loads], rows)
    return text + "\n" + table(["ns a run", "XDP, a data segment", "TC, an acknowledgement"], taken)


if __name__ == "__main__":
    if sys.argv[1:2] == [EMPTY]:
        attach_empty(sys.argv[2])
    else:
        run(measure, markdown)
