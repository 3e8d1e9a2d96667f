"""The 17 features: one table from which the matrix, the names, the docs and the checks are made.

Source of the definitions: the CATO/Retina feature set (stanford-esrg, `serve_ml`), with its SYN-ACK test
made strict. Undefined is NaN, never 0 and never infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collector import records
from collector.errors import UsageError
from collector.records import ORIGINATOR, RESPONDER, Needs, Rows

__all__ = ["FEATURES", "NAMES", "Feature", "columns", "listed", "matrix", "needs_of"]

Column = npt.NDArray[np.float64]
Times = npt.NDArray[np.uint64]

IP_PROTOCOL_TCP = 6.0


CHUNK = 4096
"""Rows at a time: what is computed of so many stays in a core's cache."""


def _seconds(later: Times, earlier: Times) -> Column:
    """Difference of two times in nanoseconds, taken as integers; NaN where either was not seen."""
    seconds: Column = (later - earlier).view(np.int64) / 1e9
    np.copyto(seconds, np.nan, where=(later == 0) | (earlier == 0))
    return seconds


def _divisor(values: Column) -> Column:
    """What makes a quotient undefined, NaN in place of 0 and below."""
    return np.where(values > 0, values, np.nan)


class _Flows:
    """What several features need, computed once for a batch of rows. Of both sides: shape (2, n_flows)."""

    def __init__(self, rows: Rows) -> None:
        of = records.sides(rows)
        packets = records.packets(of)
        first, last, handshake = of["first_ns"], of["last_ns"], of["handshake_ns"]
        begin, syn_ack, ack = first[ORIGINATOR], handshake[RESPONDER], handshake[ORIGINATOR]
        self.dur, self.syn_ack, self.ack_dat, *spans = _seconds(
            np.array([last.max(axis=0), syn_ack, ack, *last]),
            np.array([begin, begin, syn_ack, *first]),
        )
        self.packets = packets.astype(np.float64)
        self.bytes = of["bytes"].astype(np.float64)
        self.load = 8.0 * self.bytes / _divisor(self.dur)
        divisor = _divisor(self.packets)
        self.bytes_mean = self.bytes / divisor
        self.ttl_mean = records.ttl_sum(of, packets) / divisor
        self.iat_mean = spans / _divisor(self.packets - 1.0)


class Feature(NamedTuple):
    """One column of the matrix."""

    name: str
    unit: str
    meaning: str
    formula: str
    compute: Callable[[_Flows], Column]
    needs: Needs = Needs.NONE
    """What the kernel must keep of a flow for it, beside counts, times and ends."""


FEATURES: tuple[Feature, ...] = (
    Feature("dur", "s", "duration", "last segment of either side - first SYN", lambda f: f.dur),
    Feature(
        "proto",
        "",
        "IP protocol number",
        "6",
        lambda f: np.full(len(f.dur), IP_PROTOCOL_TCP),
    ),
    Feature(
        "s_bytes_sum",
        "B",
        "bytes sent by the originator",
        "sum of IP sizes",
        lambda f: f.bytes[0],
        Needs.BYTES,
    ),
    Feature(
        "d_bytes_sum",
        "B",
        "bytes sent by the responder",
        "sum of IP sizes",
        lambda f: f.bytes[1],
        Needs.BYTES,
    ),
    Feature(
        "s_ttl_mean",
        "",
        "mean TTL of the originator",
        "sum of TTLs / s_pkt_cnt",
        lambda f: f.ttl_mean[0],
        Needs.TTL,
    ),
    Feature(
        "d_ttl_mean",
        "",
        "mean TTL of the responder",
        "sum of TTLs / d_pkt_cnt",
        lambda f: f.ttl_mean[1],
        Needs.TTL,
    ),
    Feature(
        "s_load", "bit/s", "rate of the originator", "8 * s_bytes_sum / dur", lambda f: f.load[0], Needs.BYTES
    ),
    Feature(
        "d_load", "bit/s", "rate of the responder", "8 * d_bytes_sum / dur", lambda f: f.load[1], Needs.BYTES
    ),
    Feature("s_pkt_cnt", "", "segments of the originator", "count", lambda f: f.packets[0]),
    Feature("d_pkt_cnt", "", "segments of the responder", "count", lambda f: f.packets[1]),
    Feature(
        "s_bytes_mean",
        "B",
        "mean IP size of the originator",
        "s_bytes_sum / s_pkt_cnt",
        lambda f: f.bytes_mean[0],
        Needs.BYTES,
    ),
    Feature(
        "d_bytes_mean",
        "B",
        "mean IP size of the responder",
        "d_bytes_sum / d_pkt_cnt",
        lambda f: f.bytes_mean[1],
        Needs.BYTES,
    ),
    Feature(
        "s_iat_mean",
        "s",
        "mean inter-arrival time of the originator",
        "(last - first segment of the originator) / (s_pkt_cnt - 1)",
        lambda f: f.iat_mean[0],
    ),
    Feature(
        "d_iat_mean",
        "s",
        "mean inter-arrival time of the responder",
        "(last - first segment of the responder) / (d_pkt_cnt - 1)",
        lambda f: f.iat_mean[1],
        Needs.FIRST,
    ),
    Feature(
        "tcp_rtt", "s", "handshake", "syn_ack + ack_dat", lambda f: f.syn_ack + f.ack_dat, Needs.HANDSHAKE
    ),
    Feature(
        "syn_ack",
        "s",
        "handshake, the responder's half",
        "first responder segment with SYN and ACK - first SYN",
        lambda f: f.syn_ack,
        Needs.HANDSHAKE,
    ),
    Feature(
        "ack_dat",
        "s",
        "handshake, the originator's half",
        "first originator segment with ACK after the SYN-ACK - SYN-ACK",
        lambda f: f.ack_dat,
        Needs.HANDSHAKE,
    ),
)

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)


def listed(text: str) -> tuple[str, ...]:
    """The features that a comma-separated list names, in the order of the table.

    Raises
    ------
    UsageError
        A name that is none of theirs, with the nearest; one that is there twice; no name.
    """
    given = [name.strip() for name in text.split(",")]
    for name in given:
        if name not in NAMES:
            import difflib  # not for those who spell it right

            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(NAMES)}"
            raise UsageError(f"no feature {name!r}: {hint}")
        if given.count(name) > 1:
            raise UsageError(f"the feature {name} is named twice: name it once")
    return tuple(name for name in NAMES if name in given)


def columns(names: Sequence[str]) -> npt.NDArray[np.intp]:
    """Where these features are in the matrix, in the order of the names."""
    return np.array([NAMES.index(name) for name in names], np.intp)


def needs_of(names: Collection[str]) -> Needs:
    """What the kernel must keep of a flow for these features."""
    needs = Needs.NONE
    for feature in FEATURES:
        if feature.name in names:
            needs |= feature.needs
    return needs


def matrix(rows: Rows) -> npt.NDArray[np.float64]:
    """Finished flows to features.

    Parameters
    ----------
    rows
        Shape (n_flows,), dtype `records.FLOW`.

    Returns
    -------
    Shape (n_flows, 17), float64, columns in the order of `NAMES`, each in one piece; NaN where a feature
    is undefined.
    """
    out = np.empty((len(FEATURES), len(rows)))
    for begin in range(0, len(rows), CHUNK):
        flows = _Flows(rows[begin : begin + CHUNK])
        found = np.concatenate([feature.compute(flows) for feature in FEATURES])
        out[:, begin : begin + CHUNK] = found.reshape(len(FEATURES), -1)
    return out.T


def table() -> str:
    """The features as a Markdown table, for the README (`python -m collector.features`)."""
    lines = ["| # | name | unit | what | formula |", "|---|---|---|---|---|"]
    for number, feature in enumerate(FEATURES, 1):
        lines.append(
            f"| {number} | `{feature.name}` | {feature.unit} | {feature.meaning} | {feature.formula} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
