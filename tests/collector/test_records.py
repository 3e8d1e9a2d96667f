"""The numpy mirror of the C structs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from collector import records
from collector.errors import AbiError
from collector.folders import bpf_folder
from collector.records import COUNTERS, FLOW, SWEEP, Needs, Reason, SweepMode, check_layout, layout

HEADER = (bpf_folder() / "flow.h").read_text()


def compiled() -> dict[str, dict[str, list[int]]]:
    return {
        name: {field: list(place) for field, place in layout(dtype).items()}
        for name, dtype in (("flow", FLOW), ("counters", COUNTERS), ("sweep", SWEEP))
    }


def test_equal_layouts_pass() -> None:
    """What the loader compares, against itself."""
    check_layout(compiled())


@pytest.mark.parametrize(
    ("what", "field", "place"),
    [
        ("flow", "ending", [168, 4]),
        ("flow", "side[1].bytes", None),
        ("flow", "__pad_1", [10, 2]),
        ("counters", "tracked", [8, 8]),
    ],
)
def test_any_difference_is_refused_and_named(what: str, field: str, place: Any) -> None:
    """Moved, missing, or a hole that the compiler filled."""
    other = compiled()
    if place is None:
        del other[what][field]
    else:
        other[what][field] = place

    with pytest.raises(AbiError, match=re.escape(f"struct {what}: field {field} is at {place}")):
        check_layout(other)


def test_a_flow_is_three_cache_lines() -> None:
    """And so is a record in the ring."""
    assert FLOW.itemsize == 192
    assert FLOW["side"].subdtype is not None
    assert FLOW.fields is not None
    assert FLOW.fields["ends"][1] == 128


def test_the_enums_are_those_of_the_header() -> None:
    """By name and number."""
    found = re.search(r"enum reason \{(.*?)\};", HEADER, re.DOTALL)
    assert found is not None
    names = re.findall(r"REASON_(\w+),", found[1])
    assert names[1:] == [reason.name for reason in Reason]
    assert [reason.value for reason in Reason] == list(range(1, len(names)))
    found = re.search(r"enum sweep_mode \{(.*?)\};", HEADER, re.DOTALL)
    assert found is not None
    assert re.findall(r"SWEEP_(\w+),", found[1]) == [mode.name for mode in SweepMode]


def test_the_needs_are_those_of_the_header() -> None:
    """By name and number."""
    found = {name: int(number) for name, number in re.findall(r"#define NEED_(\w+)\s+(\d+)", HEADER)}
    assert found == {need.name: need.value for need in Needs.__members__.values() if need}


def test_the_fates_come_first_among_the_counters() -> None:
    """In the order of the header's list."""
    found = re.search(r"#define FLOWML_FATES\(X\)(.*?)#define", HEADER, re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r"X\((\w+)\)", found[1])) == records.FATES
