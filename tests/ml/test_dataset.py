"""Training JSON Lines: what becomes a row, what does not, and how that is said."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import DatasetError, UsageError
from collector.features import NAMES
from ml import dataset
from ml.dataset import NO_CAPTURE
from tests.ml import samples
from tests.ml.samples import MACS, line, row, write

FIRST, SECOND = line(MACS[0]), line(MACS[1])
FLOAT32_MAX = float(np.finfo(np.float32).max)


def test_named_fields(tmp_path: Path) -> None:
    """Features come from the 17 named fields, in the order of the catalogue and not of the line."""
    values = dict(zip(reversed(NAMES), range(17), strict=True))
    path = write(tmp_path / "train.jsonl", [{**values, "s_mac": MACS[0], "more": "x"}, SECOND])

    data = dataset.read([path])

    assert data.X[0].tolist() == [float(i) for i in range(16, -1, -1)]
    assert data.X.dtype == np.float64


def test_fts_before_named_fields(tmp_path: Path) -> None:
    """`fts` is used where it is present, whatever the named fields hold."""
    path = write(tmp_path / "train.jsonl", [row(fts=list(range(17))), SECOND])

    assert dataset.read([path]).X[0].tolist() == list(range(17))


def test_null_is_nan(tmp_path: Path) -> None:
    """JSON null, an undefined feature, is NaN, in either form of row."""
    path = write(
        tmp_path / "train.jsonl", [row(MACS[0], tcp_rtt=None), {"s_mac": MACS[1], "fts": [None] * 17}]
    )

    data = dataset.read([path])

    assert np.flatnonzero(np.isnan(data.X[0])).tolist() == [NAMES.index("tcp_rtt")]
    assert np.isnan(data.X[1]).all()


def test_classes(tmp_path: Path) -> None:
    """Classes are the sorted labels, and class ids index them, whatever came first."""
    path = write(tmp_path / "train.jsonl", [line("b"), line("c"), line("a"), line("b")])

    data = dataset.read([path])

    assert data.classes == ("a", "b", "c")
    assert data.y.tolist() == [1, 2, 0, 1]
    assert data.counts().tolist() == [1, 2, 1]


def test_blank_lines(tmp_path: Path) -> None:
    """Blank lines and carriage returns are nothing; a last line needs no end."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n  \r\n" + FIRST + b"\r\n\n\t\n" + SECOND)

    data = dataset.read([path])

    assert len(data) == 2
    assert data.bad == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "not JSON (EOF while parsing an object)"),
        (b"\xff\xfe", "not JSON (str is not valid UTF-8: surrogates not allowed)"),
        (b"[1, 2]", "not an object"),
        (b"null", "not an object"),
        (orjson.dumps({"fts": [1] * 17}), "no label (s_mac)"),
        (line(s_mac=None), "no label (s_mac)"),
        (line(s_mac=""), "no label (s_mac)"),
        (line(s_mac=3), "no label (s_mac)"),
        (line(fts=[1] * 16), "fts has 16 values, not 17"),
        (line(fts=[1] * 18), "fts has 18 values, not 17"),
        (line(fts=None), "fts is not an array"),
        (line(fts="1"), "fts is not an array"),
        (orjson.dumps({"s_mac": "a", "dur": 1}), "neither fts nor proto"),
        (line(s_load="12"), "s_load is text, not a number"),
        (line(fts=["1"] + [1] * 16), "dur is text, not a number"),
        (line(proto=True), "proto is true or false, not a number"),
        (line(fts=[1] * 16 + [False]), "ack_dat is true or false, not a number"),
        (line(dur=[1]), "dur is an array, not a number"),
        (line(dur={}), "dur is an object, not a number"),
        (FIRST.replace(b"1.0", b"1e39", 1), "dur is too large (beyond 3.4e+38, infinity in float32)"),
        (FIRST.replace(b"1.0", b"-1e39", 1), "dur is too large (beyond 3.4e+38, infinity in float32)"),
        (FIRST.replace(b"1.0", b"1e999", 1), "not JSON (number is infinity when parsed as double)"),
        (FIRST.replace(b"1.0", b"Infinity", 1), "not JSON (unexpected character, expected a JSON value)"),
        (FIRST.replace(b"1.0", b"NaN", 1), "not JSON (unexpected character, expected a JSON value)"),
    ],
)
def test_bad_row(tmp_path: Path, text: bytes, reason: str) -> None:
    """A line that cannot be used is left out, with its number and the reason."""
    path = write(tmp_path / "train.jsonl", [FIRST, b"", text, SECOND])

    data = dataset.read([path], skip_bad=True)

    assert len(data) == 2
    # Words in brackets are orjson's, and may change with it.
    assert [(b.path, b.line, b.reason.split(" (")[0]) for b in data.bad] == [(path, 3, reason.split(" (")[0])]


def test_largest_number(tmp_path: Path) -> None:
    """What float32 can hold can be trained on."""
    path = write(tmp_path / "train.jsonl", [line(dur=FLOAT32_MAX), line(MACS[1], dur=-FLOAT32_MAX)])

    data = dataset.read([path])

    assert np.isfinite(data.X.astype(np.float32)).all()
    assert data.X[:, 0].tolist() == [FLOAT32_MAX, -FLOAT32_MAX]


def test_one_per_cent_passes(tmp_path: Path) -> None:
    """One bad row in a hundred is accepted."""
    path = write(tmp_path / "train.jsonl", [FIRST] * 98 + [SECOND, b"x"])

    data = dataset.read([path])

    assert len(data) == 99
    assert [bad.line for bad in data.bad] == [100]


def test_more_than_one_per_cent_is_refused(tmp_path: Path) -> None:
    """One in ninety-nine is not; the message has the line, the reason, the count and the way out."""
    path = write(tmp_path / "train.jsonl", [FIRST] * 97 + [SECOND, b"[]"])

    with pytest.raises(DatasetError) as refused:
        dataset.read([path])

    assert str(refused.value) == (
        "1 of 99 rows cannot be used, more than 1 %: train.jsonl line 99: not an object; "
        "correct them, or leave them out with --skip-bad"
    )


def test_many_bad_rows_are_summed_up(tmp_path: Path) -> None:
    """Of many bad rows the first five are shown, on one line, with the number of the others."""
    one = write(tmp_path / "one.jsonl", [FIRST, b"1", b"2", b"3"])
    two = write(tmp_path / "two.jsonl", [SECOND, b"4", b"", b"5", b"6", b"7"])

    with pytest.raises(DatasetError) as refused:
        dataset.read([one, two])

    message = str(refused.value)
    assert message.startswith("7 of 9 rows cannot be used, more than 1 %: one.jsonl line 2: not an object; ")
    assert "; two.jsonl line 4: not an object; and 2 more; correct them" in message
    assert "\n" not in message


def test_skip_bad(tmp_path: Path) -> None:
    """With skip_bad any share of bad rows is accepted."""
    path = write(tmp_path / "train.jsonl", [FIRST, SECOND, *[b"?"] * 20])

    data = dataset.read([path], skip_bad=True)

    assert (len(data), len(data.bad)) == (2, 20)


def test_several_files(tmp_path: Path) -> None:
    """Rows keep the order of the files, and the SHA-256 is that of their bytes in that order."""
    one = write(tmp_path / "one.jsonl", [line("b", dur=1), b"", line("c", dur=2)])
    two = write(tmp_path / "two.jsonl", [line("a", dur=3)])

    data = dataset.read([one, two])

    assert data.X[:, 0].tolist() == [1, 2, 3]
    assert data.y.tolist() == [1, 2, 0]
    assert data.sha256 == hashlib.sha256(one.read_bytes() + two.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "train.jsonl: no row; collect some with `flowml collect`"),
        ([b"", b" "], "train.jsonl: no row; collect some with `flowml collect`"),
        ([b"7"], "not one of 1 rows can be used: train.jsonl line 1: not an object; correct them"),
        (
            [FIRST, FIRST],
            "train.jsonl: every one of the 2 rows has the label '02:00:00:00:00:01', "
            "and a model of one class knows nothing; add rows of a second device",
        ),
    ],
)
def test_no_classes(tmp_path: Path, lines: list[bytes], message: str) -> None:
    """No row, and no second class, are refused: nothing can be learnt."""
    path = write(tmp_path / "train.jsonl", lines)

    with pytest.raises(DatasetError) as refused:
        dataset.read([path], skip_bad=True)

    assert str(refused.value) == message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, or is a folder, is named."""
    for path, reason in ((tmp_path / "no.jsonl", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(DatasetError) as refused:
            dataset.read([path])

        assert str(refused.value) == f"cannot read {path}: {reason}; name a JSON Lines file"


def test_files_that_make_no_sense(tmp_path: Path) -> None:
    """No file, and a file named twice, even by another name, are refused."""
    path = write(tmp_path / "train.jsonl", [FIRST, SECOND])
    (tmp_path / "link.jsonl").symlink_to(path)

    with pytest.raises(UsageError, match="no data: name"):
        dataset.read([])
    with pytest.raises(UsageError, match=r"link\.jsonl is named twice"):
        dataset.read([path, tmp_path / "link.jsonl"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29T12:34:56Z", "2024-02-29T12:34:56"),
        ("2024-02-29T12:34:56.5Z", "2024-02-29T12:34:56.5"),
        ("2024-02-29T12:34:56.123456789Z", "2024-02-29T12:34:56.123456"),
        ("2024-02-29 12:34:56", "2024-02-29T12:34:56"),
        ("2024-03-01T01:30:00+02:00", "2024-02-29T23:30:00"),
        ("1969-12-31T23:59:59.75Z", "1969-12-31T23:59:59.75"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59"),
        ("2023-02-29T00:00:00Z", "NaT"),
        ("yesterday", "NaT"),
        (None, "NaT"),
        (1700000000, "NaT"),
    ],
)
def test_start(tmp_path: Path, text: object, expected: str) -> None:
    """`start` is read to the microsecond, in UTC; what is no time is none, and no reason to lose the row."""
    path = write(tmp_path / "train.jsonl", [row(start=text), SECOND])

    start = dataset.read([path]).start

    assert str(start[0]) == str(np.datetime64(expected, "us"))
    assert np.isnat(start[1])


def test_captures(tmp_path: Path) -> None:
    """Rows of the same capture have the same id, text or number; rows without one have none."""
    captures: list[Any] = ["x.pcap", 7, "x.pcap", 7, None, "", [1]]
    path = write(tmp_path / "train.jsonl", [*(row(capture=name) for name in captures), SECOND])

    ids = dataset.read([path]).captures.tolist()

    assert ids[:4] == [ids[0], ids[1]] * 2
    assert len({ids[0], ids[1], NO_CAPTURE}) == 3
    assert ids[4:] == [NO_CAPTURE] * 4


def test_subset() -> None:
    """A subset keeps every class, even those it has no row of."""
    data = samples.dataset([0, 1, 2, 1], captures=[5, 6, 7, 8], seconds=[1, 2, 3, 4])

    part = data.subset(np.array([3, 1]))

    assert part.classes == data.classes
    assert (part.y.tolist(), part.captures.tolist()) == ([1, 1], [8, 6])
    assert part.X[:, 0].tolist() == [3.0, 1.0]


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text("a1é\n", max_size=3)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.lists(SCALARS, min_size=17, max_size=17)
CHANGES = st.dictionaries(st.sampled_from(("s_mac", "fts", "capture", "start", "dur")), VALUES, max_size=2)


@given(text=st.binary(max_size=60) | CHANGES.map(lambda changes: orjson.dumps({**row(), **changes})))
def test_any_bytes_are_a_row_or_a_bad_row(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """Whatever is in a file, each line that is not blank is a row or a bad row; nothing else is raised."""
    path = write(tmp_path_factory.mktemp("any") / "train.jsonl", [FIRST, SECOND, text])

    data = dataset.read([path], skip_bad=True)

    lines = [part for part in path.read_bytes().split(b"\n") if part.strip()]
    assert len(lines) == len(data) + len(data.bad)
    assert data.X.shape == (len(data), 17)
    assert not np.isinf(data.X.astype(np.float32)).any()
    assert not any("\n" in str(bad) for bad in data.bad)


def test_deep_nesting(tmp_path: Path) -> None:
    """An array nested deeper than Python can follow is no reason to fail, wherever it stands."""
    deep = b"[" * 1000 + b"]" * 1000
    names = (b"capture", b"start", b"fts")
    lines = [FIRST.replace(b"}", b',"%s":%s}' % (name, deep)) for name in names]
    path = write(tmp_path / "train.jsonl", [*lines, b"[" * 100_000, SECOND])

    data = dataset.read([path], skip_bad=True)

    assert (len(data), [bad.line for bad in data.bad]) == (3, [3, 4])
