"""Compiled without what nobody reads: what is read is the same; what is not costs nothing, and is 0."""

from __future__ import annotations

import numpy as np
import pytest

from collector.features import FEATURES, matrix, needs_of
from collector.inkernel import CLOCK_IN_METADATA
from collector.records import Needs, Rows, is_tls
from tests import frames
from tests.replay import Replay

pytestmark = pytest.mark.kernel

MS = 1_000_000
PACKETS = [
    (1, frames.tcp("S", ttl=63)),
    (20 * MS, frames.answer("SA")),
    (31 * MS, frames.tcp("A", seq=1, ttl=64)),
    (43 * MS, frames.tcp("PA", frames.CLIENT_HELLO, seq=1)),
    (57 * MS, frames.answer("PA", b"hello", ttl=60)),
    (59 * MS, frames.tcp("R", seq=22)),
]
KINDS = [Needs.NONE, Needs.BYTES, Needs.TTL, Needs.HANDSHAKE, Needs.FIRST, Needs.HELLO]


def rows_with(needs: Needs) -> Rows:
    with Replay(flags=(CLOCK_IN_METADATA, "-UFLOWML_NEEDS", f"-DFLOWML_NEEDS={int(needs)}")) as replay:
        return replay.run(PACKETS)


@pytest.fixture(scope="module")
def whole() -> Rows:
    return rows_with(Needs.ALL)


@pytest.mark.parametrize("kept", KINDS, ids=lambda kept: kept.name)
def test_what_is_kept_is_what_it_is_with_all_else(whole: Rows, kept: Needs) -> None:
    """Each feature that needs nothing more is equal; each that does would not be, so it has to say so."""
    rows = rows_with(kept)

    equal = np.equal(matrix(rows), matrix(whole))[0]
    for feature, same in zip(FEATURES, equal, strict=True):
        assert same == (feature.needs in kept), feature.name
    assert is_tls(rows)[0] == (kept is Needs.HELLO)
    assert rows["reason"][0] == whole["reason"][0]


def test_the_needs_of_several_features() -> None:
    """Together; of none nothing."""
    assert needs_of(["dur", "s_pkt_cnt", "s_iat_mean"]) is Needs.NONE
    assert needs_of(["s_load", "tcp_rtt"]) == Needs.BYTES | Needs.HANDSHAKE
