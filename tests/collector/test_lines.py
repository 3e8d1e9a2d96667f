"""Lines of JSON: what they hold, and that nothing breaks them."""

from __future__ import annotations

import json
import math
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from collector import records
from collector.features import NAMES, matrix
from collector.lines import _BLOCK_ROWS, Origin, Predictions, label_lines, record_lines
from collector.records import FLOW, Reason, Rows

CLOCK = 1_700_000_000_000_000_000


def rows() -> Rows:
    """Two flows; the second one's originator is the key's high end."""
    found = np.zeros(2, dtype=FLOW)
    for i, (high, reason) in enumerate([(0, Reason.FIN), (1, Reason.ESTABLISH)]):
        found[i]["ends"]["low_addr"] = list(bytes(10) + b"\xff\xff\x0a\x00\x00\x01")
        found[i]["ends"]["high_addr"] = list(bytes(10) + b"\xff\xff\xc0\xa8\x01\x02")
        found[i]["ends"]["low_port"] = 40000
        found[i]["ends"]["high_port"] = 443
        found[i]["ip_version"] = 4
        found[i]["originator_is_high"] = high
        found[i]["reason"] = reason
        found[i]["source_mac"] = [2, 0, 0, 0, 0, 0xA0 + i]
        found[i]["side"][0]["first_ns"] = 123_456_789 + i
        found[i]["side"][0]["last_ns"] = 123_456_789 + i
        found[i]["side"][0]["gate"] = 1 << 12
    found[0]["side"][0]["hello"] = 0x0000FF000000FFFF
    return found


def test_a_record() -> None:
    """The fields, their order, their form."""
    first, second = record_lines(rows(), Origin(CLOCK, iface="eth0")).splitlines(keepends=True)

    assert first == (
        b'{"start":"2023-11-14T22:13:20.123456789Z","iface":"eth0","src_ip":"10.0.0.1","src_port":40000,'
        b'"dst_ip":"192.168.1.2","dst_port":443,"s_mac":"02:00:00:00:00:a0","tls":true,"reason":"fin"}\n'
    )
    assert json.loads(second) == {
        "start": "2023-11-14T22:13:20.123456790Z",
        "iface": "eth0",
        "src_ip": "192.168.1.2",
        "src_port": 443,
        "dst_ip": "10.0.0.1",
        "dst_port": 40000,
        "s_mac": "02:00:00:00:00:a1",
        "tls": False,
        "reason": "establish",
    }


def test_a_record_with_prediction_and_features() -> None:
    """Label and probability follow, then the 17 by name; NaN is null."""
    predictions = Predictions(["a", "b"], np.array([1, 0]), np.array([0.75, 1.0]))

    lines = record_lines(rows(), Origin(CLOCK, iface="eth0"), matrix=matrix(rows()), predictions=predictions)

    record = json.loads(lines.splitlines()[0])
    assert list(record)[9:] == ["label", "probability", *NAMES]
    assert (record["label"], record["probability"]) == ("b", 0.75)
    assert (record["dur"], record["s_load"], record["s_pkt_cnt"]) == (0.0, None, 1.0)


def test_a_label_is_a_json_string() -> None:
    """Whatever bytes it is made of, it is one line."""
    labels = ["02:00:00:00:00:01", 'a "quoted"\nline', "ü\u2028"]
    predictions = Predictions(labels, np.array([0, 2, 1]), np.ones(3))

    lines = label_lines(predictions).splitlines(keepends=True)

    assert lines[0] == b'"02:00:00:00:00:01"\n'
    assert [json.loads(line) for line in lines] == [labels[0], labels[2], labels[1]]
    assert all(line.count(b"\n") == 1 for line in lines)


def test_every_reason_has_a_name() -> None:
    """What the kernel can say is what a line can say."""
    found = np.repeat(rows()[:1], len(Reason))
    found["reason"] = [reason.value for reason in Reason]
    named = [json.loads(line)["reason"] for line in record_lines(found, Origin(0, iface="x")).splitlines()]
    assert named == ["fin", "rst", "idle", "establish", "shutdown", "evicted"]


def test_no_rows_no_lines() -> None:
    """An empty batch."""
    assert record_lines(rows()[:0], Origin(0, iface="x")) == b""
    assert records.endpoints(rows()[:0])[0].shape == (0,)


@pytest.mark.parametrize(
    ("capture", "shown"),
    [
        ("a/b.pcap", "a/b.pcap"),
        ('quo"te\n.pcap', 'quo"te\n.pcap'),
        (
            "caf\udce9.pcap",
            "caf\N{REPLACEMENT CHARACTER}.pcap",
        ),  # no UTF-8, as Python holds it
    ],
)
def test_a_record_of_a_capture(capture: str, shown: str) -> None:
    """It says which, as given; it has no interface, and no MAC where the link has none."""
    found = rows()
    found["no_mac"][1] = 1

    first, second = map(json.loads, record_lines(found, Origin(CLOCK, capture=capture)).splitlines())

    assert (first["iface"], first["capture"]) == (None, shown)
    assert (first["s_mac"], second["s_mac"]) == ("02:00:00:00:00:a0", None)


def address(value: bytes, version: int) -> str:
    """By the C library's way, where Python has it."""
    return inet_ntop(AF_INET6, value) if version == 6 else inet_ntop(AF_INET, value[12:])


def expected(row: Any, numbers: list[float], label: str, probability: float) -> dict[str, Any]:
    """A record by the plain way."""
    ends = [
        (address(row["ends"][f"{end}_addr"].tobytes(), row["ip_version"]), int(row["ends"][f"{end}_port"]))
        for end in (("high", "low") if row["originator_is_high"] else ("low", "high"))
    ]
    return {
        "start": str(np.datetime64(int(row["side"][0]["first_ns"]) - 1, "ns")) + "Z",
        "iface": None,
        "capture": "c",
        "src_ip": ends[0][0],
        "src_port": ends[0][1],
        "dst_ip": ends[1][0],
        "dst_port": ends[1][1],
        "s_mac": None if row["no_mac"] else row["source_mac"].tobytes().hex(":"),
        "tls": bool(row["side"][0]["hello"] == 0x0000FF000000FFFF),
        "reason": Reason(int(row["reason"])).name.lower(),
        "label": label,
        "probability": probability,
        **{name: None if math.isnan(number) else number for name, number in zip(NAMES, numbers, strict=True)},
    }


@given(
    flows=arrays.arrays(np.uint8, st.integers(0, 5).map(lambda n: n * FLOW.itemsize)),
    numbers=arrays.arrays(np.float64, (5, len(NAMES)), elements=st.floats(allow_infinity=False)),
    probabilities=arrays.arrays(np.float64, 5, elements=st.floats(0, 1)),
    labels=st.lists(st.text(), min_size=1, max_size=3),
)
def test_any_flow_is_one_line_that_says_what_the_flow_says(
    flows: Any, numbers: Any, probabilities: Any, labels: list[str]
) -> None:
    """Whatever bits a flow is made of: numbers come back bit for bit, text as it was."""
    found = flows.view(FLOW).copy()
    found["reason"] = found["reason"] % len(Reason) + 1
    found["originator_is_high"] %= 2
    found["ip_version"] = found["ip_version"] % 2 * 2 + 4
    found["side"][:, 0]["first_ns"] %= 1 << 62
    numbers, probabilities = numbers[: len(found)], probabilities[: len(found)]
    classes = np.arange(len(found)) % len(labels)

    lines = record_lines(
        found,
        Origin(-1, capture="c"),
        matrix=numbers,
        predictions=Predictions(labels, classes, probabilities),
    ).splitlines(keepends=True)

    assert len(lines) == len(found)
    for i, line in enumerate(lines):
        wanted = expected(found[i], numbers[i].tolist(), labels[classes[i]], probabilities[i])
        assert line.endswith(b"}\n")
        assert json.loads(line) == wanted
        assert list(json.loads(line)) == list(wanted)


def test_rows_in_this_machines_byte_order_give_the_same_line() -> None:
    """numpy turns fields around when it joins structured arrays."""
    turned = np.concatenate([rows(), rows()])
    assert turned.dtype != FLOW
    origin = Origin(0, iface="x")
    assert record_lines(turned, origin) == 2 * record_lines(rows(), origin)
    assert record_lines(records.joined([rows(), rows()]), origin) == record_lines(turned, origin)


def test_many_at_once_are_as_one_by_one() -> None:
    """More than are made at a time: every row keeps its numbers, its label and its probability."""
    count = 2 * _BLOCK_ROWS + 3
    found = records.joined([rows()] * count)[:count]
    found["side"][:, 0]["first_ns"] += np.arange(count, dtype=np.uint64)
    numbers = np.arange(count * len(NAMES)).reshape(count, -1) / 4
    predictions = Predictions(["a", "b", "c"], np.arange(count) % 3, np.arange(count) / count)

    lines = record_lines(found, Origin(0, iface="x"), matrix=numbers, predictions=predictions)

    one_by_one = [
        record_lines(found[i], Origin(0, iface="x"), matrix=numbers[i], predictions=predictions.of(i))
        for i in (slice(number, number + 1) for number in range(count))
    ]
    assert lines.splitlines(keepends=True) == one_by_one
