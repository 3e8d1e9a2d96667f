"""`flowml verify`: the same packets through the kernel, on the CPU and over a wire; the numbers compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from collector.captures import open_input
from collector.compare import Tally, compare_rows
from collector.errors import InputError
from collector.features import FEATURES
from collector.inkernel import FRAME_LEAST, FRAME_MOST, InKernel
from collector.online import require_rights
from collector.progress import progress
from collector.records import FATES, Rows, joined
from collector.rehearsal import TOLERANCE_S, Stage, Tape, require_tools
from collector.replay import Limits, Replay

__all__ = ["verify"]

_DRAIN_EVERY = 1000
_SIDES = ("kernel", "cpu")

Write = Callable[[str], None]


@dataclass(slots=True)
class _Proof:
    """What was found so far, over all captures."""

    captures: int = 0
    packets: int = 0
    not_run: int = 0
    """Packets too short for the kernel's test run: less than a link header was captured."""
    tally: Tally = field(default_factory=Tally)
    fates: list[str] = field(default_factory=list)
    """Captures whose packets met other fates, with the numbers."""


def verify(captures: Sequence[str], limits: Limits, *, live: bool, write: Write) -> bool:
    """Compares the hosts of the core on captures and writes what it found; answers whether all is equal.

    Parameters
    ----------
    live
        Also replay each capture over a veth pair, with `flowml collect` attached.

    Raises
    ------
    InputError
        A capture cannot be read to its end: what was compared until there does not prove anything.
    """
    require_rights()
    if live:
        require_tools()
    proof, wire = _Proof(), Tally()
    with ExitStack() as stack:
        in_kernel = stack.enter_context(InKernel(limits))
        stage = stack.enter_context(Stage(limits.ip)) if live else None
        advance = stack.enter_context(progress("verify", len(captures), "captures"))
        for name in captures:
            tape = Tape(stage.folder / "tape.pcap") if stage is not None else None
            _in_kernel_and_on_cpu(name, in_kernel, limits, proof, tape)
            if stage is not None and tape is not None:
                stage.compare(name, tape, limits, wire)
            advance(1)
    _report(proof, wire if live else None, stage.fastest if stage else 1.0, write)
    return not (proof.tally.differ or proof.fates or wire.differ)


def _in_kernel_and_on_cpu(
    name: str, in_kernel: InKernel, limits: Limits, proof: _Proof, tape: Tape | None
) -> None:
    """Both hosts in step, packet by packet, so that the kernel's table is swept when the CPU's is."""
    in_kernel.restart()
    ended: list[Rows] = []
    in_kernel_ended: list[Rows] = []
    packets = not_run = 0
    fd = open_input(name)
    try:
        with Replay(fd, limits) as replay:
            for packet in replay.packets(ended):
                packets += 1
                if packet.swept:
                    in_kernel.sweep(packet.time_ns)
                frame = packet.on_ethernet()
                if len(frame) < FRAME_LEAST:
                    not_run += 1
                else:
                    in_kernel.send(packet.time_ns, frame[:FRAME_MOST])
                if tape is not None:
                    tape.write(packet)
                if packets % _DRAIN_EVERY == 0:
                    in_kernel_ended.append(in_kernel.read())
            if replay.trouble:
                raise InputError(f"{name} cannot be read to its end: {replay.trouble}")
            account = replay.account()
    finally:
        os.close(fd)
        if tape is not None:
            tape.close()
    in_kernel_ended.append(in_kernel.finish())
    proof.captures += 1
    proof.packets += packets
    proof.not_run += not_run
    compare_rows(joined(in_kernel_ended), joined(ended), _SIDES, proof.tally)
    counted = in_kernel.counters()
    counted["truncated"] += not_run
    for fate in FATES:
        if counted[fate] != account.counters[fate]:
            proof.fates.append(f"{name}: {fate}: kernel {counted[fate]}, cpu {account.counters[fate]}")


def _report(proof: _Proof, wire: Tally | None, fastest: float, write: Write) -> None:
    tally = proof.tally
    write(f"captures {proof.captures}, packets {proof.packets}, connections {tally.connections}")
    if proof.not_run:
        write(f"{proof.not_run} packets hold no whole link header: the kernel was not asked about them")
    write("")
    head = f"{'feature':<13} {'kernel = cpu':>12} {'difference':>12}"
    write(head + (f" {'wire = cpu':>12} {'difference':>12}" if wire is not None else ""))
    for feature in FEATURES:
        line = f"{feature.name:<13} {tally.compared[feature.name]:>12} {tally.largest[feature.name]:>12.6g}"
        if wire is not None:
            number, largest = wire.compared[feature.name], wire.largest[feature.name]
            line += f" {number:>12} {largest:>12.6g}" if number else f" {'-':>12} {'-':>12}"
        write(f"{line} {feature.unit}".rstrip())
    write("")
    write(f"kernel = cpu: {tally.counters} raw counters compared, {tally.differ} connections differ")
    for text in proof.fates:
        write(f"fates of packets differ: {text}")
    if tally.first:
        write(f"the first connection that differs:\n{tally.first}")
    if wire is not None:
        write(
            f"wire = cpu: {wire.connections} connections compared, {wire.differ} differ; counts exactly, "
            f"times within {TOLERANCE_S:g} s of those at which packets went onto the wire (replayed up to "
            f"{fastest:.0f} times as fast)"
        )
        if wire.first:
            write(f"the first connection that differs:\n{wire.first}")
