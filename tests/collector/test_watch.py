"""What looks on while a run goes, without a run: numbers, metrics, alerts, status lines, the picture."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from collector.activity import LATENCY_S, Activity, Histogram
from collector.errors import ConfigError
from collector.lines import Origin, Predictions
from collector.metrics import LABELS_MAX, Metrics, address
from collector.mismatch import SHOWN, WINDOW_S, Mismatches
from collector.printable import printable
from collector.records import COUNTERS, FLOW, Reason, Rows
from collector.status import StatusLines
from collector.view import View

ORIGIN = Origin(1_700_000_000_000_000_000, iface="eth0")


class Clock:
    """One that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def source(name: str = "eth0", **counters: int) -> Any:
    """An interface whose kernel has counted this."""
    counted = dict.fromkeys(COUNTERS.names or (), 0) | counters
    ring = SimpleNamespace(size=4096, waiting=200)
    return SimpleNamespace(
        name=name,
        open=True,
        hooks=SimpleNamespace(xdp_mode="native", ingress_mode="", egress_mode="tcx"),
        table=SimpleNamespace(max_connections=100, ring=ring, counters=lambda: counted),
    )


def flows(macs: Sequence[int], reason: Reason = Reason.FIN) -> Rows:
    """A connection of each MAC, 02:00:00:00:00:XX; its last segment was just now."""
    found = np.zeros(len(macs), dtype=FLOW)
    found["source_mac"] = [(2, 0, 0, 0, 0, mac) for mac in macs]
    found["reason"] = reason
    found["side"]["first_ns"] = found["side"]["last_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return found


def answers(labels: Sequence[str], classes: Sequence[int], probability: float = 0.95) -> Predictions:
    return Predictions(labels, np.array(classes, np.intp), np.full(len(classes), probability))


def scraped(activity: Activity, mismatches: Mismatches | None = None) -> dict[tuple[str, ...], float]:
    """The metrics as a parser of their format reads them: (name, interface, other labels...) to value."""
    registry = CollectorRegistry(auto_describe=False)
    sink: Any = SimpleNamespace(written=7)
    registry.register(Metrics(activity, sink, mismatches, lambda: {"file": "m.joblib"}))
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels, key=_place))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _place(label: str) -> tuple[bool, str]:
    return label != "interface", label


@given(st.lists(st.sampled_from([0.0, *LATENCY_S, 0.0007, 3.0, 99.0]), min_size=1))
def test_a_histogram_counts_what_is_not_above_each_bound(values: list[float]) -> None:
    """As Prometheus defines `le`; the last counts all."""
    histogram = Histogram(LATENCY_S)
    histogram.add(np.array(values[1:]))
    histogram.add(values[0])

    expected = [sum(value <= bound for value in values) for bound in (*LATENCY_S, float("inf"))]
    assert histogram.cumulative() == expected
    assert histogram.sum == pytest.approx(sum(values))


def test_every_number_is_scraped() -> None:
    """The kernel's counters, the loop's own, and what follows from them."""
    activity = Activity([source(tracked=11, ipv6=3, opened=9, delivered=4, filtered=2)])
    activity.predicted(flows([1, 2]), ORIGIN, answers(["a", "b"], [1, 1]), 0.002)
    activity.written("eth0", flows([1, 2]), 0.003)
    activity.written("eth0", flows([1], Reason.IDLE), 0.003)
    activity.swept("eth0", 0.0001)

    found = scraped(activity)

    assert found["flowml_packets_total", "eth0", "tracked"] == 11
    assert found["flowml_packets_total", "eth0", "ipv6"] == 3
    assert found["flowml_connections_total", "eth0", "opened"] == 9
    assert found["flowml_connections_ended_total", "eth0", "fin"] == 2
    assert found["flowml_connections_ended_total", "eth0", "idle"] == 1
    assert found["flowml_table_connections", "eth0"] == 3
    assert found["flowml_table_connections_max", "eth0"] == 100
    assert (found["flowml_ring_bytes", "eth0"], found["flowml_ring_bytes_max", "eth0"]) == (200, 4096)
    assert found["flowml_attached", "eth0", "tcx", "native"] == 1
    assert found["flowml_sweep_seconds_count", "eth0"] == 1
    assert found["flowml_drain_seconds_bucket", "eth0", "0.0025"] == 0
    assert found["flowml_drain_seconds_bucket", "eth0", "0.005"] == 2
    assert found["flowml_line_latency_seconds_count", "eth0"] == 2  # the idle one ended without a segment
    assert found["flowml_line_latency_seconds_sum", "eth0"] < 60
    assert found["flowml_prediction_seconds_sum",] == 0.002
    assert found["flowml_predictions_total", "b"] == 2
    assert found["flowml_lines_total",] == 7
    assert found["flowml_model_info", "m.joblib"] == 1


def test_labels_are_bounded_and_no_counter_goes_back() -> None:
    """The first ones have a series of their own whatever comes later; the others are one."""
    labels = [f"label {number}" for number in range(3 * LABELS_MAX)]
    activity = Activity([source()])
    activity.predicted(flows([1] * 50), ORIGIN, answers(labels, range(50)), 0.0)
    before = scraped(activity)
    for _ in range(3):
        everything = range(len(labels))
        activity.predicted(flows([1] * len(labels)), ORIGIN, answers(labels, everything), 0.0)
    after = scraped(activity)

    series = {key: value for key, value in after.items() if key[0] == "flowml_predictions_total"}
    assert len(series) == LABELS_MAX + 1
    assert series["flowml_predictions_total", "other"] == 3 * 2 * LABELS_MAX
    assert sum(series.values()) == 50 + 3 * len(labels)
    assert all(after[key] >= value for key, value in before.items())


def test_no_series_comes_twice() -> None:
    """Labels that look alike once they are fit for it, or like the name of the others, are one."""
    labels = ["a\x01", "a\x02", "other", *(f"label {number}" for number in range(LABELS_MAX))]
    activity = Activity([source()])
    activity.predicted(flows([1] * len(labels)), ORIGIN, answers(labels, range(len(labels))), 0.0)

    found = scraped(activity)

    assert found["flowml_predictions_total", "a\ufffd"] == 2
    assert found["flowml_predictions_total", "other"] == 1 + 3


def test_closed_it_answers_with_the_last_numbers_and_touches_no_table() -> None:
    """A scrape that comes while the tables are being closed meets none."""
    iface = source(tracked=5)
    activity = Activity([iface])
    activity.close()
    iface.table = None
    iface.open = False

    assert scraped(activity)["flowml_packets_total", "eth0", "tracked"] == 5


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))
def test_any_text_is_made_fit(text: str) -> None:
    """For UTF-8, for the parser of Prometheus' format, and for a terminal."""
    activity = Activity([source(text, tracked=1)])
    activity.predicted(flows([1]), ORIGIN, answers([text], [0]), 0.0)

    assert scraped(activity)["flowml_predictions_total", printable(text)] == 1
    assert scraped(activity)["flowml_packets_total", printable(text), "tracked"] == 1
    out = io.StringIO()
    console = Console(file=out, color_system=None, width=200, force_terminal=False)
    console.print(View(activity, text, lambda: 24, Clock()).picture())
    assert all(sign.isprintable() or sign == "\n" for sign in out.getvalue())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address(text: str, expected: tuple[str, int]) -> None:
    """The loopback unless told."""
    assert address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "localhost:1", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", ":65536", ":-1", ":١"]
)
def test_what_is_no_address(text: str) -> None:
    """Is named, with what it must be."""
    with pytest.raises(ConfigError, match=r"must be ADDR:PORT, like 127\.0\.0\.1:9464"):
        address(text)


MACS = ["02:00:00:00:00:0A", "a printer", "02-00-00-00-00-0b"]


def test_who_is_a_mismatch() -> None:
    """A known MAC, another label, enough probability: all three."""
    said: list[str] = []
    mismatches = Mismatches(0.9, said.append)
    cases = [  # MAC, class, probability, whether it is one
        (0x0A, 0, 0.99, False),  # itself
        (0x0A, 2, 0.99, True),
        (0x0A, 2, 0.90, True),
        (0x0A, 2, 0.89, False),
        (0x0B, 1, 0.99, True),  # a label that is no MAC is another device all the same
        (0x0B, 2, 0.99, False),
        (0x0C, 0, 0.99, False),  # nobody knows it
    ]
    for mac, label, probability, expected in cases:
        before = mismatches.count
        mismatches.predicted(flows([mac]), ORIGIN, answers(MACS, [label], probability), 0.0)
        assert (mismatches.count - before, len(said)) == (int(expected), mismatches.count)

    assert said[0] == (
        "mismatch: 02:00:00:00:00:0a on eth0 behaves like 02-00-00-00-00-0b (probability 0.990): "
        f"0.0.0.0:0 > 0.0.0.0:0, {said[0].rpartition(' ')[2]}"
    )


def test_without_a_mac_there_is_no_mismatch() -> None:
    """A link that has none gives zeros, which are nobody's."""
    mismatches = Mismatches(0.5, lambda line: None)
    rows = flows([0])
    rows["source_mac"] = 0
    rows["no_mac"] = 1
    mismatches.predicted(rows, ORIGIN, answers(["00:00:00:00:00:00", "x"], [1]), 0.0)
    assert mismatches.count == 0


def test_alerts_are_bounded_and_the_others_counted() -> None:
    """`SHOWN` a window; at its end, or at the end of the run, how many more there were."""
    said: list[str] = []
    clock = Clock()
    mismatches = Mismatches(0.9, said.append, clock)
    for _ in range(3):
        mismatches.predicted(flows([0x0A] * 15), ORIGIN, answers(MACS, [2] * 15), 0.0)
    assert len(said) == SHOWN
    mismatches.turned()
    assert len(said) == SHOWN

    clock.now += WINDOW_S
    mismatches.turned()
    assert said[SHOWN:] == [f"mismatch: {45 - SHOWN} more, not shown: {SHOWN} a minute are"]
    mismatches.predicted(flows([0x0A]), ORIGIN, answers(MACS, [2]), 0.0)
    assert len(said) == SHOWN + 2
    mismatches.close()
    assert (len(said), mismatches.count) == (SHOWN + 2, 46)


def test_another_model_has_other_macs() -> None:
    """Whose labels are compared is asked anew when they are others."""
    mismatches = Mismatches(0.9, lambda line: None)
    for labels, expected in ((["x", "y"], 0), (MACS, 1)):
        mismatches.predicted(flows([0x0A]), ORIGIN, answers(labels, [1]), 0.0)
        assert mismatches.count == expected


def test_a_status_line_has_what_came_since_the_one_before() -> None:
    """One an interval, over all interfaces."""
    said: list[str] = []
    clock = Clock()
    first, second = source("a", tracked=5, opened=4, delivered=1), source("b", not_ip=2, table_full=1)
    activity = Activity([first, second])
    status = StatusLines(activity, 60, said.append, clock)
    activity.written("a", flows([1]), 0.0)
    clock.now += 59.9
    status.turned()
    assert said == []

    clock.now += 0.1
    status.turned()
    status.turned()
    assert said == ["status: 1 connections and 8 packets in 60 s; 3 of 200 open; 1 refused"]

    clock.now += 61
    first.table.counters = lambda: dict.fromkeys(COUNTERS.names or (), 0) | {"tracked": 25}
    status.turned()
    assert said[1] == "status: 0 connections and 20 packets in 61 s; 0 of 200 open; 0 refused"


def test_the_picture_fits_the_terminal() -> None:
    """However many labels: the commonest, and one line for the others."""
    labels = [f"device-{number}" for number in range(500)]
    activity = Activity([source(tracked=1)])
    activity.predicted(flows([1] * 500), ORIGIN, answers(labels, range(500)), 0.0)
    activity.predicted(flows([1] * 3), ORIGIN, answers(labels, [77] * 3), 0.0)
    for height in (14, 24, 60):
        out = io.StringIO()
        view = View(activity, "flowml", lambda height=height: height, Clock())  # type: ignore[misc]
        Console(file=out, width=100).print(view.picture())
        lines = out.getvalue().splitlines()
        assert len(lines) < height
        assert sum("device-" in line for line in lines) > 1
        assert next(line.split()[:2] for line in lines if "device-" in line) == ["device-77", "4"]
        assert any(" others" in line for line in lines)


def test_rates_are_over_the_time_that_passed() -> None:
    """Packets and connections a second since the last time they were taken."""
    clock = Clock()
    iface = source(tracked=100)
    activity = Activity([iface])
    view = View(activity, "flowml", lambda: 24, clock)
    view.picture()
    iface.table.counters = lambda: dict.fromkeys(COUNTERS.names or (), 0) | {"tracked": 400}
    activity.written("eth0", flows([1] * 6), 0.0)
    clock.now += 2
    out = io.StringIO()
    Console(file=out, width=100).print(view.picture())
    assert out.getvalue().splitlines()[2].split()[:3] == ["eth0", "150", "3.0"]
