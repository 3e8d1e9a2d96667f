"""`flowml check`, and what is said of an interface that is refused or goes away while attaching."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.lab import Pair, veth_pair
from tests.tool import FLOWML

pytestmark = pytest.mark.live

CROWDED = """
import ctypes, os, socket, sys
from collector import kernel
PROG_LOAD, SCHED_CLS, TCX_EGRESS = 5, 3, 47  # <linux/bpf.h>
code = ctypes.create_string_buffer(bytes.fromhex("b7000000ffffffff 9500000000000000"), 16)  # return -1
license = ctypes.create_string_buffer(b"GPL")
attr = kernel._attr("IIQQ", SCHED_CLS, 2, ctypes.addressof(code), ctypes.addressof(license))
index = socket.if_nametoindex(sys.argv[1])
try:
    for _ in range(1000):
        link = kernel.create_link(kernel._bpf(PROG_LOAD, attr), index, TCX_EGRESS)
        os.set_inheritable(link, True)
except OSError:  # no more than so many
    pass
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Holds as many programs at the interface's TCX egress as the kernel takes, and becomes a command."""

GONE = """
import subprocess, sys
from collector import netinfo
from collector.errors import FlowmlError
from collector.hooks import Attachment, attach, attach_egress, attach_ingress
from collector.loader import Compiler, compile_flags
flags = compile_flags(max_connections=16, ring_bytes=4096, tcp_establish_timeout=5000,
                      tcp_inactivity_timeout=300_000, tls_only=False)
name, at, egress = sys.argv[1:]
interface = netinfo.find(name)
with Compiler() as compiler:
    loaded = compiler.load(flags, max_connections=16)
hooks = Attachment(interface)
if at == "egress":
    attach_ingress(hooks, loaded, "auto", "auto")
subprocess.run(["ip", "link", "del", name], check=True)
try:
    if at == "egress":
        attach_egress(hooks, loaded.tc_fd, egress)
    elif at == "mirror":
        attach(interface, loaded, direction="ingress", xdp="auto", egress=egress)
    else:
        attach(interface, loaded, direction="both", xdp="auto", egress=egress)
except FlowmlError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def wire() -> Iterator[Pair]:
    with veth_pair() as pair:
        yield pair


def check(wire: Pair, *command: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and what was found: name to state and text."""
    done = subprocess.run(
        ["ip", "netns", "exec", wire.right.ns, *command], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return done.returncode, {what: (state, found) for state, what, found in lines}


def test_what_a_good_port_can_do(wire: Pair) -> None:
    """Native XDP and TCX; nothing stays attached."""
    code, found = check(wire, str(FLOWML), "check", wire.right.iface)

    assert code == 0
    assert found["ingress"] == ("ok", "native XDP")
    assert found["egress"] == ("ok", "TCX")
    assert "xdp" not in wire.right.run(["ip", "link", "show", wire.right.iface])


def test_the_loopback_has_no_egress_hook_for_a_reason(wire: Pair) -> None:
    """The kernel's TCX is not in doubt."""
    code, found = check(wire, str(FLOWML), "check", "lo")

    assert code == 0
    assert found["ingress"] == (
        "note",
        "TCX; lo refuses native XDP (Operation not supported): what comes in is counted by TC, "
        "merged segments as on the wire",
    )
    state, said = found["egress"]
    assert state == "note"
    assert said.startswith("none; what goes out comes in again here")
    assert "6.6" not in said


def test_an_egress_hook_that_is_refused_is_called_that(wire: Pair) -> None:
    """XDP is fine, and attach would fail."""
    command = (sys.executable, "-c", CROWDED, wire.right.iface, str(FLOWML), "check", wire.right.iface)
    code, found = check(wire, *command)

    assert code == 1
    assert found["ingress"] == ("ok", "native XDP")
    assert found["egress"][0] == "FAIL"
    assert "refuses TCX egress" in found["egress"][1]


@pytest.mark.parametrize("at", ["ingress", "mirror", "egress"])
@pytest.mark.parametrize("egress", ["tcx", "clsact"])
def test_an_interface_that_goes_away_while_attaching_is_said_to(wire: Pair, at: str, egress: str) -> None:
    """While the programs are compiled, or between the two hooks."""
    said = wire.right.run([sys.executable, "-c", GONE, wire.right.iface, at, egress])

    assert said == f"InterfaceError {wire.right.iface} went away meanwhile: see `ip link`\n"


def test_check_names_the_interfaces_that_are_there(wire: Pair) -> None:
    """One that is not."""
    code, found = check(wire, str(FLOWML), "check", "nosuch0")

    assert code == 1
    assert found["interface"] == ("FAIL", f"no interface nosuch0 here: there are {wire.right.iface}, lo")
