"""The 17 features: one table from which the matrix, the names, the docs and the checks are made.

Source of the definitions: the CATO/Retina feature set (stanford-esrg, `serve_ml`), with its SYN-ACK test
made strict. Undefined is NaN, never 0 and never infinity.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collector import records
from collector.errors import UsageError
from collector.records import ORIGINATOR, RESPONDER, Needs, Rows

__all__ = ["FEATURES", "NAMES", "Feature", "columns", "listed", "matrix", "needs_of"]

Column = npt.NDArray[np.float64]

IP_PROTOCOL_TCP = 6.0


def _over(numerator: Column, denominator: Column) -> Column:
    """Quotient; NaN where the denominator is 0."""
    out = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def _seconds(later: npt.NDArray[np.uint64], earlier: npt.NDArray[np.uint64]) -> Column:
    """Difference of two times in nanoseconds, taken as integers; NaN where either was not seen."""
    seen = (later != 0) & (earlier != 0)
    difference = later.astype(np.int64) - earlier.astype(np.int64)
    return np.where(seen, difference / 1e9, np.nan)


class _Flows:
    """The columns that several features need, each computed once for a batch of rows."""

    def __init__(self, rows: Rows) -> None:
        source, destination = rows["side"][:, ORIGINATOR], rows["side"][:, RESPONDER]
        self.sides = (source, destination)
        self.packets = [records.packets(rows, side).astype(np.float64) for side in (0, 1)]
        self.bytes = [records.bytes_sum(rows, side).astype(np.float64) for side in (0, 1)]
        self.ttls = [records.ttl_sum(rows, side).astype(np.float64) for side in (0, 1)]
        last = np.maximum(source["last_ns"], destination["last_ns"])
        self.dur = _seconds(last, source["first_ns"])
        self.syn_ack = _seconds(destination["handshake_ns"], source["first_ns"])
        self.ack_dat = _seconds(source["handshake_ns"], destination["handshake_ns"])

    def load(self, side: int) -> Column:
        return _over(8.0 * self.bytes[side], self.dur)

    def iat_mean(self, side: int) -> Column:
        between = self.packets[side] - 1.0
        span = _seconds(self.sides[side]["last_ns"], self.sides[side]["first_ns"])
        return _over(span, np.where(between < 1.0, 0.0, between))

    def per_packet(self, sums: list[Column], side: int) -> Column:
        return _over(sums[side], self.packets[side])


@dataclass(frozen=True, slots=True)
class Feature:
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
        lambda f: f.per_packet(f.ttls, 0),
        Needs.TTL,
    ),
    Feature(
        "d_ttl_mean",
        "",
        "mean TTL of the responder",
        "sum of TTLs / d_pkt_cnt",
        lambda f: f.per_packet(f.ttls, 1),
        Needs.TTL,
    ),
    Feature(
        "s_load", "bit/s", "rate of the originator", "8 * s_bytes_sum / dur", lambda f: f.load(0), Needs.BYTES
    ),
    Feature(
        "d_load", "bit/s", "rate of the responder", "8 * d_bytes_sum / dur", lambda f: f.load(1), Needs.BYTES
    ),
    Feature("s_pkt_cnt", "", "segments of the originator", "count", lambda f: f.packets[0]),
    Feature("d_pkt_cnt", "", "segments of the responder", "count", lambda f: f.packets[1]),
    Feature(
        "s_bytes_mean",
        "B",
        "mean IP size of the originator",
        "s_bytes_sum / s_pkt_cnt",
        lambda f: f.per_packet(f.bytes, 0),
        Needs.BYTES,
    ),
    Feature(
        "d_bytes_mean",
        "B",
        "mean IP size of the responder",
        "d_bytes_sum / d_pkt_cnt",
        lambda f: f.per_packet(f.bytes, 1),
        Needs.BYTES,
    ),
    Feature(
        "s_iat_mean",
        "s",
        "mean inter-arrival time of the originator",
        "(last - first segment of the originator) / (s_pkt_cnt - 1)",
        lambda f: f.iat_mean(0),
    ),
    Feature(
        "d_iat_mean",
        "s",
        "mean inter-arrival time of the responder",
        "(last - first segment of the responder) / (d_pkt_cnt - 1)",
        lambda f: f.iat_mean(1),
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
    Shape (n_flows, 17), float64, columns in the order of `NAMES`; NaN where a feature is undefined.
    """
    flows = _Flows(rows)
    out = np.empty((len(rows), len(FEATURES)))
    for column, feature in enumerate(FEATURES):
        out[:, column] = feature.compute(flows)
    return out


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
