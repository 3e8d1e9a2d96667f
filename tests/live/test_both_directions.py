"""A host that sends and receives, its offloads on: what flowml counts is what is on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import lab
from tests.lab import Host, Pair, Profile, sniff, start_device, start_server, wait_for
from tests.oracle import Oracle, read_pcap
from tests.tool import flowml

pytestmark = pytest.mark.live

COUNTS = ("s_pkt_cnt", "d_pkt_cnt", "s_bytes_sum", "d_bytes_sum", "s_ttl_mean", "d_ttl_mean", "s_bytes_mean")


@contextmanager
def hosts_and_a_switch() -> Iterator[Pair]:
    """A client without offloads and a server with them, a bridge between.

    The server's large buffers are split where they leave the bridge, as a network card would split them, so
    the client's end shows the wire.
    """
    with lab._laboratory() as laboratory:
        client = Host(laboratory.namespace("client"), lab.CLIENT_MAC, lab.CLIENT_IP, lab=laboratory)
        server = Host(laboratory.namespace("server"), lab.SERVER_MAC, lab.SERVER_IP, lab=laboratory)
        switch = laboratory.namespace("switch")
        ports = [Host(switch, f"02:00:00:00:01:0{i}", iface=f"port{i}", lab=laboratory) for i in (1, 2)]
        lab._wire(client, ports[0], 1500, offloads=False)
        lab._wire(ports[1], server, 1500, offloads=True)
        lab._switch_offloads_off(ports[1])
        ports[0].run(["ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"])
        for port in ports:
            port.run(["ip", "link", "set", port.iface, "master", "bridge", "up"])
        ports[0].run(["ip", "link", "set", "bridge", "up"])
        lab._connect(client, [server])
        lab._connect(server, [client])
        lab._wait_for_carrier(client, server, *ports)
        yield Pair(client, server)


@pytest.mark.parametrize("egress", ["tcx", "clsact"])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_what_is_counted_is_what_is_on_the_wire(tmp_path: Path, tls: bool, egress: str) -> None:
    """Real sockets, small and large answers, FIN and RST: the same segments and bytes, connection by
    connection, as in a capture taken where no offload is at work."""
    profile = Profile(request_bytes=3000, answer_bytes=200_000, requests=4, pause_ms=1)
    capture = tmp_path / "wire.pcap"
    count = 12
    with hosts_and_a_switch() as pair:
        features = pair.right.run(["ethtool", "-k", pair.right.iface])
        assert "tcp-segmentation-offload: on" in features
        service = start_server(pair.right, tmp_path, tls=tls)
        with (
            sniff(pair.left, capture),
            flowml(
                pair.right,
                "collect",
                pair.right.iface,
                *("--filter", "tcp", "--direction", "both", "--egress", egress),
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
            wait_for(lambda: len(of(capture)) >= 2 * count, "the capture to be written")

    expected = of(capture)
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


def of(capture: Path) -> list[tuple[str, int, bool, str, dict[str, float | None]]]:
    """What the oracle makes of a capture."""
    oracle = Oracle()
    for time_ns, frame in read_pcap(capture):
        oracle.packet(time_ns, frame)
    return [
        (one.src_ip, one.src_port, one.tls, one.reason, one.features())
        for one in oracle.finish()
        if one.reason != "shutdown"
    ]
