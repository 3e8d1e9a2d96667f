"""From the command to the first packet that is counted, and what stays in memory.

python -m tests.bench.start [--rounds N] [--json FILE]
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from collector import compiler
from collector.drain import FlowTable
from collector.folders import bpf_folder
from collector.records import FLOW
from tests import frames
from tests.bench.rounds import Found, in_turns, ratios, run, spread, table
from tests.bench.samples import forest
from tests.bench.walking import settings
from tests.lab import Host, Pair, end, veth_pair, wait_for
from tests.tool import FLOWML

TITLE = "Start and size"
HOW = """\
A connection of two packets arrives every millisecond; the clock starts before the command does, and stops
at the first packet that is in its records. Memory is what is resident once it runs. Beside it the same
core with the same settings is loaded as BCC's users do, in the process that goes on running, attached
with `attach_xdp`, and its ring is polled through BCC. Both compile without kernel headers, with the few
that flowml brings: a tree of real ones is not to be had on this machine, so what BCC's usual way through
them costs on top is not in these figures."""

COLLECT, ATTACH, BCC = "flowml collect", "flowml attach, forest of 100 trees", "BCC in the process"
CONNECTIONS = 100_000
EVERY_S = 0.001
SEND, IN_PROCESS = "--send", "--bcc"


def send(iface: str) -> None:
    """A new connection a millisecond, of a SYN and an RST, until ended."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((iface, 0))
        begin, number = time.monotonic(), 0
        while True:
            host, port = divmod(number, 50_000)
            for flags in ("S", "R"):
                wire.send(frames.tcp(flags, src=f"10.1.0.{host % 256}", sport=1024 + port))
            number += 1
            time.sleep(max(0.0, begin + number * EVERY_S - time.monotonic()))


def in_process(iface: str) -> None:
    """The ordinary BCC way, until SIGINT; then says when the first packet was counted."""
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf_folder() / "uapi")
    import bcc

    flags = settings(max_connections=CONNECTIONS, ring_bytes=1 << 22)
    source = bpf_folder() / "flowml.bpf.c"
    module = bcc.BPF(src_file=str(source), cflags=[*compiler._include_flags(bpf_folder()), *flags])
    ingress = module.load_func("flowml_xdp", module.XDP)
    sweep = module.load_func("flowml_sweep", module.SCHED_CLS)
    flows = FlowTable(
        sweep_fd=sweep.fd,
        **{f"{name}_fd": module[name].map_fd for name in ("slots", "counters", "sweeps")},
        ring_fd=module["finished"].map_fd,
        max_connections=CONNECTIONS,
    )
    flows.fill()
    first: list[int] = []

    def called(_context: object, data: Any, size: int) -> None:
        flow = np.frombuffer(ctypes.string_at(data, size), FLOW)
        if not first:
            print("running", flush=True)
        first.append(int(flow["side"][0, 0]["first_ns"]))

    told: list[int] = []  # raised within the callback it would be lost
    signal.signal(signal.SIGINT, lambda signum, _: told.append(signum))
    module["finished"].open_ring_buffer(called)
    module.attach_xdp(iface, ingress)
    while not told:
        module.ring_buffer_poll(100)
    module.remove_xdp(iface)
    print(min(first))


def first_of_lines(outfile: Path) -> int:
    """The earliest start in records, nanoseconds of the monotonic clock."""
    starts = [orjson.loads(line)["start"] for line in outfile.read_bytes().splitlines()]
    seconds, _, rest = min(starts).rstrip("Z").partition(".")
    whole = round(datetime.fromisoformat(seconds + "+00:00").timestamp())
    offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return whole * 1_000_000_000 + int(rest.ljust(9, "0")) - offset


def started(wire: Pair, name: str, model: Path, memory: dict[str, list[float]]) -> float:
    """Milliseconds from the command to the first packet counted."""
    iface = wire.right.iface
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as folder, sending(wire.left):
        outfile, out, err = (Path(folder) / what for what in ("lines", "out", "err"))
        options = ["--filter", "tcp", "--direction", "ingress", "--outfile", str(outfile)]
        command = {
            COLLECT: [str(FLOWML), "collect", iface, *options],
            ATTACH: [str(FLOWML), "attach", iface, *options, "--model", str(model), "--format", "record"],
            BCC: [sys.executable, "-m", "tests.bench.start", IN_PROCESS, iface],
        }
        begin = time.monotonic_ns()
        process = wire.right.popen(command[name], out=out, err=err)
        # It reads what comes: the model is parsed by then.
        running = out if name == BCC else outfile
        wait_for(lambda: running.exists() and running.stat().st_size > 0, name, process=process)
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        memory[name].append(int(found[1]) / 1024)
        assert end(process, signal.SIGINT, timeout=60) == 0, err.read_text()
        first = int(out.read_text().split()[-1]) if name == BCC else first_of_lines(outfile)
    return (first - begin) / 1e6


@contextmanager
def sending(host: Host) -> Iterator[None]:
    """Packets keep coming in the body."""
    process = host.popen([sys.executable, "-m", "tests.bench.start", SEND, host.iface])
    sent = Path("statistics") / "tx_packets"
    count = ["cat", f"/sys/class/net/{host.iface}/{sent}"]
    before = int(host.run(count))
    try:
        wait_for(lambda: int(host.run(count)) > before, "the sender", process=process)
        yield
    finally:
        end(process)


def measure(rounds: int) -> Found:
    """Milliseconds to the first packet, and MB resident, by way."""
    ways = (COLLECT, ATTACH, BCC)
    memory: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="flowml-bench-") as folder, veth_pair() as wire:
        Path(folder).chmod(0o755)
        model = forest(Path(folder))
        turns: dict[str, Callable[[], float]] = {
            name: partial(started, wire, name, model, memory) for name in ways
        }
        first = in_turns(turns, rounds, warm_up=False)
    return {"first_packet_ms": first, "resident_mb": memory, "aims": []}


def markdown(found: Found) -> str:
    first, memory = found["first_packet_ms"], found["resident_mb"]
    return table(
        ("", "first packet counted, ms", f"of {BCC}", "resident, MB", f"of {BCC}"),
        [
            (
                name,
                spread(first[name], 0),
                spread(ratios(first[name], first[BCC])),
                spread(memory[name], 0),
                spread(ratios(memory[name], memory[BCC])),
            )
            for name in first
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == [SEND]:
        send(sys.argv[2])
    elif sys.argv[1:2] == [IN_PROCESS]:
        in_process(sys.argv[2])
    else:
        run(measure, markdown)
