"""What is counted as a call is what the kernel calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.helpers import Insn, calls_of_a_known_flow, insns, with_counters
from tests.replay import changed_core

IN_XDP = "\treturn XDP_PASS;\n"
RANDOM = "bpf_user_rnd_u32"
"""The kernel's name of bpf_get_prandom_u32."""

CALL, EXIT = Insn(0x85, 0, 0, 5), Insn(0x95, 0, 0, 0)


def jump(distance: int) -> Insn:
    return Insn(0x15, 0, distance, 0)


def packed(*program: Insn) -> bytes:
    return b"".join(insn.packed() for insn in program)


def test_jumps_lead_where_they_led() -> None:
    """Over calls, to a call, which is to its counter, and back."""
    found = insns(with_counters(packed(jump(1), CALL, CALL, jump(-3), jump(-2), EXIT), 3))

    to = {at: at + 1 + insn.offset for at, insn in enumerate(found) if insn.code == 0x15}
    calls = [at for at, insn in enumerate(found) if insn == CALL]
    assert calls == [6, 12]
    assert to == {0: 7, 13: 1, 14: 13}


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning")  # BCC's, of itself
def test_a_call_is_counted_as_often_as_it_is_made(tmp_path: Path) -> None:
    """Three more in the XDP program, in a loop: there, on both sides, and nowhere else."""
    more = "\tfor (int i = 0; i < 3; i++)\n\t\tbpf_get_prandom_u32();\n"
    expected = calls_of_a_known_flow()
    for where, calls in expected.items():
        calls.update({RANDOM: 3} if where.startswith("XDP") else {})

    assert calls_of_a_known_flow(changed_core(tmp_path, IN_XDP, more + IN_XDP)) == expected


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning")  # BCC's, of itself
def test_a_call_that_the_kernel_replaces_is_none(tmp_path: Path) -> None:
    """A look-up in an array becomes arithmetic, one in a hash stays a call."""
    array = "\t__u32 number = 0;\n\tif (!sweeps.lookup(&number))\n\t\treturn XDP_ABORTED;\n"
    hash = "\tstruct flow_key key = pkt.key;\n\tif (!flows.lookup(&key))\n\t\treturn XDP_ABORTED;\n"
    expected = calls_of_a_known_flow()

    assert calls_of_a_known_flow(changed_core(tmp_path / "1", IN_XDP, array + IN_XDP)) == expected

    for where, calls in expected.items():
        calls.update({"__htab_map_lookup_elem": 1} if where.startswith("XDP") else {})
    assert calls_of_a_known_flow(changed_core(tmp_path / "2", IN_XDP, hash + IN_XDP)) == expected
