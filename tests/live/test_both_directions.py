"""A host that sends and receives, its offloads on: what flowml counts is what is on the wire."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tests import frames
from tests.lab import hosts_and_a_switch, sniff, two_hosts, veth_pair, wait_for
from tests.oracle import Oracle, read_pcap
from tests.tool import flowml
from tests.traffic import Profile, start_device, start_server

pytestmark = pytest.mark.live

COUNTS = ("s_pkt_cnt", "d_pkt_cnt", "s_bytes_sum", "d_bytes_sum", "s_ttl_mean", "d_ttl_mean", "s_bytes_mean")


@pytest.mark.parametrize(
    ("ingress", "egress", "version"),
    [
        *((*hooks, 4) for hooks in product(("native", "tc"), ("tcx", "clsact"))),
        ("native", "tcx", 6),
        ("tc", "tcx", 6),
    ],
)
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_what_is_counted_is_what_is_on_the_wire(
    tmp_path: Path, tls: bool, ingress: str, egress: str, version: int
) -> None:
    """Real sockets, small and large answers, FIN and RST: the same segments and bytes, connection by
    connection, as in a capture taken where no offload is at work."""
    profile = Profile(request_bytes=3000, answer_bytes=200_000, requests=4, pause_ms=1)
    capture = tmp_path / "wire.pcap"
    count = 12
    with hosts_and_a_switch(version) as pair:
        features = pair.right.run(["ethtool", "-k", pair.right.iface])
        assert "tcp-segmentation-offload: on" in features
        service = start_server(pair.right, tmp_path, tls=tls)
        with (
            sniff(pair.left, capture),
            flowml(
                pair.right,
                "collect",
                pair.right.iface,
                *("--filter", "tcp", "--direction", "both", "--xdp", ingress, "--egress", egress),
                *("--ip", str(version)),
            ) as running,
        ):
            for number, close in enumerate(("fin", "rst")):
                device = start_device(
                    pair.left,
                    service,
                    replace(profile, close=close),
                    count,
                    number,
                    tmp_path / f"{number}.jsonl",
                )
                assert device.wait(60) == 0, device.last_words()
            wait_for(lambda: len(running.lines()) == 2 * count, "every connection")
            assert running.stop() == 0
            records, counters = running.lines(), running.counters()
            wait_for(lambda: len(of(capture, version)) >= 2 * count, "the capture to be written")

    expected = of(capture, version)
    ours = {
        (record["src_ip"], record["src_port"]): (
            record["tls"],
            record["reason"],
            *(record[n] for n in COUNTS),
        )
        for record in records
    }
    theirs = {
        (src_ip, src_port): (tls_seen, reason, *(features[n] for n in COUNTS))
        for src_ip, src_port, tls_seen, reason, features in expected
    }
    assert ours == theirs
    assert len(ours) == 2 * count
    segments = sum(record["s_pkt_cnt"] + record["d_pkt_cnt"] for record in records)
    assert counters["tracked"] < segments  # large buffers did go through, each counted as its segments


def test_on_the_originator_s_own_host(tmp_path: Path) -> None:
    """The SYN and the ClientHello go out here: the mark is found in buffers whose payload lies elsewhere."""
    profile = Profile(request_bytes=20_000, answer_bytes=2000, requests=2)
    with two_hosts() as pair:
        service = start_server(pair.right, tmp_path)
        with flowml(pair.left, "collect", pair.left.iface, "--direction", "both") as running:
            device = start_device(pair.left, service, profile, 7, 1, tmp_path / "device.jsonl")
            assert device.wait(60) == 0, device.last_words()
            wait_for(lambda: len(running.lines()) == 7, "every connection")
            assert running.stop() == 0
            records, counters = running.lines(), running.counters()

    assert [record["s_mac"] for record in records] == [pair.left.mac] * 7
    assert all(record["tls"] and record["reason"] == "fin" for record in records)
    # 40,000 bytes of requests in segments of 1,448: at least 28, whatever the buffers were.
    assert all(record["s_pkt_cnt"] > 28 and record["s_bytes_sum"] > 41_000 for record in records)
    assert "filtered" not in counters


SEND_NONLINEAR = """
import socket, sys
frame = bytes.fromhex(sys.argv[2])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
    port.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR: a struct virtio_net_hdr comes first
    port.bind((sys.argv[1], 0))
    assert port.send(bytes(10) + frame) == 10 + len(frame)
"""
"""Sends a frame of more than a page. The header before it says that nothing of it has to be in one piece, so
the kernel puts the Ethernet header alone into the buffer's linear part, and the rest into pages."""


def test_headers_that_lie_outside_of_what_can_be_read_in_place() -> None:
    """On the way out: IP and TCP headers are brought in, and the ClientHello behind them is found."""
    hello = frames.CLIENT_HELLO + bytes(5000)
    sent = [frames.tcp("S", seq=1), frames.tcp("A", hello, seq=2), frames.tcp("R", bytes(5000), seq=9)]
    with (
        veth_pair(mtu=9000) as wire,
        flowml(wire.right, "collect", wire.right.iface, "--direction", "both") as running,
    ):
        for frame in sent:
            send = ["python3", "-c", SEND_NONLINEAR, wire.right.iface, frame.hex()]
            wire.right.run(send)
        wait_for(lambda: len(running.lines()) == 1, "the connection")
        assert running.stop() == 0
        assert "attached, native XDP" in running.stderr()  # packets of 9000 bytes take several buffers
        (record,), counters = running.lines(), running.counters()

    assert counters == {"tracked": 3, "opened": 1, "delivered": 1}
    assert (record["tls"], record["reason"], record["s_pkt_cnt"]) == (True, "rst", 3)
    assert record["s_bytes_sum"] == sum(len(frame) - 14 for frame in sent)


def of(capture: Path, version: int) -> list[tuple[str, int, bool, str, dict[str, float | None]]]:
    """What the oracle makes of a capture."""
    oracle = Oracle(versions=str(version))
    for time_ns, frame in read_pcap(capture):
        oracle.packet(time_ns, frame)
    return [
        (one.src_ip, one.src_port, one.tls, one.reason, one.features())
        for one in oracle.finish()
        if one.reason != "shutdown"
    ]
