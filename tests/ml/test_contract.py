"""The contract: what it keeps, what it refuses, and what it says then."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ModelError
from collector.features import NAMES
from ml.contract import Contract, flowml_features, library_versions
from ml.origin import Origin
from tests.ml.samples import TIMEOUTS, contract

OURS = flowml_features()
ASKED = Origin("tls", "4", dict(TIMEOUTS))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"filter": None, "ip": None, "timeouts": dict.fromkeys(TIMEOUTS)},
        {"ip": "both"},
        {"classes": {"Küche": 1, "": 2}, "model_sha256": "a" * 64},
        {"scores": {"split": "row", "accuracy": None, "n_train": 3}},
    ],
)
def test_round_trip(changes: dict[str, Any]) -> None:
    """A contract comes back from its JSON as it was."""
    expected = contract(**changes)

    assert Contract.from_json(expected.to_json(), "x") == expected


def test_json() -> None:
    """The JSON is for people too: indented, features by name and unit, parameters that are objects told."""
    text = contract(parameters={"base": object, "alpha": np.float64(0.5)}).to_json()

    document = orjson.loads(text)
    assert text.count(b"\n") > 20
    assert document["format"] == 1
    assert [feature["name"] for feature in document["features"]] == list(NAMES)
    assert document["features"][6] == {"name": "s_load", "unit": "bit/s"}
    assert document["parameters"] == {"base": "<class 'object'>", "alpha": 0.5}


def test_unknown_members_are_ignored() -> None:
    """A member that a later flowml may add is no reason to refuse."""
    document = {**orjson.loads(contract().to_json()), "colour": "blue"}

    assert Contract.from_json(orjson.dumps(document), "x") == contract()


def test_a_contract_from_before_ip() -> None:
    """One that says nothing of `ip` is of a model of IPv4: others are refused it, all else is as it was."""
    document = orjson.loads(contract().to_json())
    del document["ip"]
    before = Contract.from_json(orjson.dumps(document), "x")

    assert before == contract()
    assert before.origin_differences("m.joblib", ASKED._replace(ip="both")) == [
        "m.joblib was trained on ip=4, but ip=both is asked: pass --ip 4, or train on such data"
    ]


def test_versions() -> None:
    """The versions are those of Python and of what a model depends on."""
    assert list(library_versions()) == ["python", "numpy", "scikit-learn", "joblib", "onnxruntime", "flowml"]
    assert library_versions()["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("member", "value", "kind"),
    [
        ("features", ["dur"], "an array of objects with name and unit"),
        ("features", [{"name": "dur"}], "an array of objects with name and unit"),
        ("nan", None, "text"),
        ("filter", 6, "text or null"),
        ("timeouts", {"tcp_establish_timeout": "5"}, "an object of milliseconds or null"),
        ("classes", {"a": None}, "an object of counts"),
        ("classes", ["a"], "an object of counts"),
        ("estimator", 1, "text"),
        ("parameters", [], "an object"),
        ("versions", {"numpy": 2}, "an object of texts"),
        ("scores", None, "an object"),
        ("model_sha256", False, "text"),
    ],
)
def test_wrong_member(member: str, value: object, kind: str) -> None:
    """A member that is missing or of the wrong kind is named, with what it should be."""
    document = orjson.loads(contract().to_json())
    for changed in ({**document, member: value}, {k: v for k, v in document.items() if k != member}):
        with pytest.raises(ModelError) as refused:
            Contract.from_json(orjson.dumps(changed), "m.meta.json")

        assert str(refused.value) == (
            f"m.meta.json: {member} is not {kind}; restore the file, or train the model again"
        )


def test_other_format() -> None:
    """A contract of another format is refused before anything else in it is looked at."""
    with pytest.raises(ModelError) as refused:
        Contract.from_json(b'{"format": 2}', "m.meta.json")

    assert str(refused.value) == (
        "m.meta.json has format 2, this flowml reads format 1; "
        "use the flowml that wrote it, or train the model again with this one"
    )


@given(text=st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b'{"format": [[]]}', b"1"]))
def test_any_bytes(text: bytes) -> None:
    """Whatever is in the file, it is a contract or one line of error."""
    with pytest.raises(ModelError) as refused:
        Contract.from_json(text, "m.meta.json")

    assert str(refused.value).startswith("m.meta.json ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("features", "difference"),
    [
        ((), "it names none"),
        ((*OURS, OURS[0]), "its feature 18 is dur once more"),
        ((*OURS[:16], ("ack_time", "s")), "its feature 17 is ack_time, which flowml does not have"),
        ((("colour", ""),), "its feature 1 is colour, which flowml does not have"),
        ((("dur", "ms"), *OURS[1:]), "its dur is in 'ms', flowml's in 's'"),
    ],
)
def test_other_features(features: tuple[tuple[str, str], ...], difference: str) -> None:
    """Features that flowml does not have, or has in another unit, are told; the first one is named."""
    assert contract(features=features).feature_differences("m.joblib") == [
        f"m.joblib was trained on other features: {difference}; train it again"
    ]


@pytest.mark.parametrize("features", [OURS[:16], (OURS[1], OURS[0]), OURS[::-1]])
def test_some_features(features: tuple[tuple[str, str], ...]) -> None:
    """Any of flowml's, in any order, are fine: they are given by their names."""
    asked = contract(features=features)

    assert asked.feature_differences("m.joblib") == []
    assert asked.columns() == tuple(name for name, _ in features)


def test_other_nan_rule() -> None:
    """So is a model that was trained with NaN replaced: it would be served NaN."""
    assert contract(nan="-1").feature_differences("m.joblib") == [
        "m.joblib was trained with NaN '-1', flowml serves NaN 'kept'; train it again"
    ]


def test_same_origin() -> None:
    """Training data that was captured as asked leaves nothing to say."""
    assert contract().feature_differences("m.joblib") == []
    assert contract().origin_differences("m.joblib", ASKED) == []
    assert contract().unknown_origin() == []


def test_other_origin() -> None:
    """Each other filter or timeout is told, with both values and the way out."""
    asked = Origin("tcp", "4", {**TIMEOUTS, "tcp_inactivity_timeout": 60_000})

    assert contract().origin_differences("m.joblib", asked) == [
        "m.joblib was trained on filter=tls, but filter=tcp is asked: "
        "pass --filter tls, or train on such data",
        "m.joblib was trained on tcp_inactivity_timeout=300000 ms, but tcp_inactivity_timeout=60000 ms "
        "is asked: set tcp_inactivity_timeout to 300000, or train on such data",
    ]


def test_unknown_origin() -> None:
    """What is not known, on either side, cannot differ: it is only told."""
    unknown = contract(filter=None, ip=None, timeouts={"tcp_establish_timeout": 5000})

    assert unknown.unknown_origin() == ["filter", "ip", "tcp_inactivity_timeout"]
    assert unknown.origin_differences("m.joblib", ASKED) == []
    assert contract().origin_differences("m.joblib", Origin(None, None, dict.fromkeys(TIMEOUTS))) == []
