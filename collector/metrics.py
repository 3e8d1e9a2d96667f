"""What a run does, for Prometheus: `--metrics ADDR:PORT`.

The port is bound while the rights to are there, and served by one thread once they are gone. A scrape
copies numbers that the loop keeps anyway and reads the kernel's counters; the loop waits for none of it.
"""

from __future__ import annotations

import ipaddress
import platform
import socket
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from collector import privileges
from collector.activity import Activity, Histogram
from collector.errors import ConfigError
from collector.mismatch import Mismatches
from collector.printable import printable
from collector.records import EVENTS, FATES, Reason
from collector.sink import Sink

__all__ = ["LABELS_MAX", "Endpoint", "Metrics", "address"]

LABELS_MAX = 100
"""Labels with a series of their own, the first that are predicted; the others are one, `other`.

The first and not the commonest, because a counter may never go back.
"""
OTHER = "other"

_LOOPBACK = "127.0.0.1"
_PATIENCE_S = 5


class Metrics(Collector):
    """Gathers the metrics of a run whenever they are asked for."""

    def __init__(
        self,
        activity: Activity,
        sink: Sink,
        mismatches: Mismatches | None,
        model: Callable[[], Mapping[str, str]],
    ) -> None:
        self._activity = activity
        self._sink = sink
        self._mismatches = mismatches
        self._model = model
        self._build = _build()

    def describe(self) -> Iterable[Metric]:
        """None: nothing has to be gathered when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._of_tables()
        if model := self._model():
            yield InfoMetricFamily("flowml_model", "Which model answers.", _printable(model))
            yield from self._of_predictions()
        yield CounterMetricFamily("flowml_lines", "Lines in the output, whole.", self._sink.written)
        yield InfoMetricFamily("flowml_build", "What runs.", self._build)

    def _of_tables(self) -> Iterable[Metric]:
        by = ["interface"]
        packets = CounterMetricFamily(
            "flowml_packets", "Packets by what became of them: exactly one fate each.", labels=[*by, "fate"]
        )
        connections = CounterMetricFamily(
            "flowml_connections", "Connections by event: opened = delivered + filtered + held.",
            labels=[*by, "event"],
        )  # fmt: skip
        ended = CounterMetricFamily(
            "flowml_connections_ended", "Delivered connections by why they ended.", labels=[*by, "reason"]
        )
        held = GaugeMetricFamily("flowml_table_connections", "Connections in the flow table.", labels=by)
        room = GaugeMetricFamily(
            "flowml_table_connections_max", "Connections that the flow table has room for.", labels=by
        )
        waiting = GaugeMetricFamily(
            "flowml_ring_bytes", "Finished connections that wait in the ring, bytes.", labels=by
        )
        ring = GaugeMetricFamily("flowml_ring_bytes_max", "Size of the ring, bytes.", labels=by)
        attached = GaugeMetricFamily(
            "flowml_attached",
            "1 while the hooks are on the interface, else 0.",
            labels=[*by, "ingress", "egress"],
        )
        sweep = HistogramMetricFamily("flowml_sweep_seconds", "Time of a sweep of the flow table.", labels=by)
        drain = HistogramMetricFamily(
            "flowml_drain_seconds", "Time of a batch of connections from the ring to the sink.", labels=by
        )
        latency = HistogramMetricFamily(
            "flowml_line_latency_seconds",
            "From the segment that ended a connection to its line; without those that timed out.",
            labels=by,
        )
        for table in self._activity.tables():
            name = printable(table.name)
            for fate in FATES:
                packets.add_metric([name, fate], table.counters.get(fate, 0))
            for event in EVENTS:
                connections.add_metric([name, event], table.counters.get(event, 0))
            for reason in Reason:
                ended.add_metric([name, reason.name.lower()], int(table.reasons[reason]))
            held.add_metric([name], table.held)
            room.add_metric([name], table.max_connections)
            waiting.add_metric([name], table.ring_waiting)
            ring.add_metric([name], table.ring_bytes)
            attached.add_metric([name, table.ingress_mode, table.egress_mode], int(table.is_open))
            _add(sweep, [name], table.sweeps)
            _add(drain, [name], table.drains)
            _add(latency, [name], table.latency)
        yield from (packets, connections, ended, held, room, waiting, ring, attached, sweep, drain, latency)

    def _of_predictions(self) -> Iterable[Metric]:
        predictions = CounterMetricFamily("flowml_predictions", "Predictions by label.", labels=["label"])
        counts: Counter[str] = Counter()
        for place, (label, seen) in enumerate(self._activity.labels().items()):
            counts[printable(label) if place < LABELS_MAX else OTHER] += seen.count
        for shown, count in counts.items():
            predictions.add_metric([shown], count)
        took = HistogramMetricFamily("flowml_prediction_seconds", "Time of the classifier for a batch.")
        _add(took, [], self._activity.predictions())
        yield from (predictions, took)
        if self._mismatches is not None:
            yield CounterMetricFamily(
                "flowml_mismatches",
                "Connections whose source MAC is a label, but surely enough not the predicted one.",
                self._mismatches.count,
            )


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, histogram.cumulative(), strict=True)), histogram.sum)


def _printable(values: Mapping[str, str]) -> dict[str, str]:
    return {name: printable(value) for name, value in values.items()}


def address(text: str) -> tuple[str, int]:
    """`ADDR:PORT`, `[ADDR]:PORT` or a bare `PORT`, which is on the loopback.

    Raises
    ------
    ConfigError
        It is none of these.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or _LOOPBACK
    try:
        found = ipaddress.ip_address(host), int(port)
    except ValueError:
        found = None
    if found is None or not (port.isascii() and port.isdigit() and 0 < found[1] < 1 << 16):
        raise ConfigError(f"--metrics = {text!r} must be ADDR:PORT, like {_LOOPBACK}:9464 or [::1]:9464")
    return str(found[0]), found[1]


def _build() -> dict[str, str]:
    return {"version": version("flowml"), "python": platform.python_version(), "kernel": platform.release()}


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Standard error is for what the user should know."""


class _Server(WSGIServer):
    """One request at a time, so that nobody can make many threads of it."""

    def server_bind(self) -> None:
        # http.server's own looks the name of the address up, which can take as long as it likes.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # one that hangs up or says nothing is no news
            super().handle_error(request, client_address)


class Endpoint:
    """A port, bound with the rights of who typed the command; it is open until the process ends."""

    def __init__(self, text: str) -> None:
        host, port = address(text)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = type("_Server", (_Server,), {"address_family": family})
        try:
            with privileges.as_caller():
                self._server: _Server = kind((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {text} ({error.strerror}): name another --metrics"
            ) from error

    def serve(self, metrics: Metrics) -> None:
        """Answers from now on, in a thread of its own, which has the rights that this one has by now."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(metrics)
        ProcessCollector(registry=registry)
        self._server.set_app(make_wsgi_app(registry, disable_compression=True))
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
