"""What a model was trained on, and what it therefore may be asked: the contract beside every model."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson

from collector.errors import ModelError
from collector.features import FEATURES, NAMES
from ml.origin import IP_BEFORE, Origin

__all__ = ["NAN_KEPT", "Contract", "flowml_features", "library_versions"]

FORMAT = 1
"""Of the JSON. A contract of another format is refused; unknown members of this one are ignored."""

NAN_KEPT = "kept"
"""The NaN rule: an undefined feature reaches the estimator as NaN."""

_LIBRARIES = ("numpy", "scikit-learn", "joblib", "onnxruntime", "flowml")

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Contract:
    """A model's own account of itself: plain data, JSON on disk.

    Attributes
    ----------
    features
        Name and unit of every column of the model's input, in order: all of flowml's, or some.
    nan
        What becomes of NaN before the estimator sees it.
    filter, ip, timeouts
        As in `Origin`.
    classes
        Label to number of training rows.
    estimator, parameters
        The dotted path of the estimator's class, and its parameters.
    versions
        Library to version.
    data_sha256
        Of the training files.
    scores
        On held-out rows.
    created
        ISO 8601, UTC.
    model_sha256
        Of the model file.
    """

    features: tuple[tuple[str, str], ...]
    nan: str
    filter: str | None
    ip: str | None
    timeouts: dict[str, int | None]
    classes: dict[str, int]
    estimator: str
    parameters: dict[str, Any]
    versions: dict[str, str]
    data_sha256: str
    scores: dict[str, Any]
    created: str
    model_sha256: str = ""

    def to_json(self) -> bytes:
        """For the file beside the model."""
        document = {"format": FORMAT, **asdict(self)}
        document["features"] = [{"name": name, "unit": unit} for name, unit in self.features]
        # A parameter that is an object (another estimator, a callable) is told by its repr.
        return orjson.dumps(document, default=repr, option=_JSON)

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Contract:
        """Reads what `to_json` wrote.

        Parameters
        ----------
        name
            Of the file, for messages.

        Raises
        ------
        ModelError
            Not JSON, another format, or a member that is missing or of the wrong kind.
        """
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ModelError(f"{name} is not JSON ({error}); restore it, or train the model again") from None
        if not isinstance(document, dict) or "format" not in document:
            raise ModelError(f"{name} is not a contract of flowml; restore it, or train the model again")
        if document["format"] != FORMAT:
            raise ModelError(
                f"{name} has format {document['format']!r}, this flowml reads format {FORMAT}; "
                "use the flowml that wrote it, or train the model again with this one"
            )
        document.setdefault("ip", IP_BEFORE)
        for member, (is_right, kind) in _MEMBERS.items():
            if member not in document or not is_right(document[member]):
                raise ModelError(
                    f"{name}: {member} is not {kind}; restore the file, or train the model again"
                )
        values = {field.name: document[field.name] for field in fields(cls)}
        values["features"] = tuple((feature["name"], feature["unit"]) for feature in document["features"])
        return cls(**values)

    def feature_differences(self, model: str) -> list[str]:
        """How the model's inputs differ from what this flowml can give it: features, units, NaN rule.

        Parameters
        ----------
        model
            Its name, for the text.
        """
        found = []
        if difference := _difference(self.features):
            found.append(f"{model} was trained on other features: {difference}; train it again")
        if self.nan != NAN_KEPT:
            found.append(
                f"{model} was trained with NaN {self.nan!r}, flowml serves NaN {NAN_KEPT!r}; train it again"
            )
        return found

    def columns(self) -> tuple[str, ...]:
        """The features that the model is given, in its order; all, where it asks for what is not there."""
        names = tuple(name for name, _ in self.features)
        return names if names and set(names) <= set(NAMES) and len(set(names)) == len(names) else NAMES

    def origin_differences(self, model: str, asked: Origin) -> list[str]:
        """How the training data was captured otherwise than the model's input will be.

        What one of them does not know is no difference.
        """
        found = []
        flags = {"filter": (self.filter, asked.filter), "ip": (self.ip, asked.ip)}
        for name, (trained, value) in flags.items():
            if None not in (trained, value) and trained != value:
                found.append(
                    f"{model} was trained on {name}={trained}, but {name}={value} is asked: "
                    f"pass --{name} {trained}, or train on such data"
                )
        for name, asked_ms in asked.timeouts.items():
            trained_ms = self.timeouts.get(name)
            if None not in (trained_ms, asked_ms) and trained_ms != asked_ms:
                found.append(
                    f"{model} was trained on {name}={trained_ms} ms, but {name}={asked_ms} ms is asked: "
                    f"set {name} to {trained_ms}, or train on such data"
                )
        return found

    def unknown_origin(self) -> list[str]:
        """The settings of the training data's capture that are not known."""
        return Origin(self.filter, self.ip, self.timeouts).unknown()


def flowml_features(names: Sequence[str] = NAMES) -> tuple[tuple[str, str], ...]:
    """Name and unit of these features, in the order of the names."""
    units = {feature.name: feature.unit for feature in FEATURES}
    return tuple((name, units[name]) for name in names)


def library_versions() -> dict[str, str]:
    """Version of Python and of every library that a model depends on."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:  # run from its sources
            versions[library] = "unknown"
    return versions


def _difference(trained: tuple[tuple[str, str], ...]) -> str | None:
    """The first feature that flowml cannot give, in words; None if there is none."""
    units = dict(flowml_features())
    before: set[str] = set()
    for number, (name, unit) in enumerate(trained, 1):
        if name not in units:
            return f"its feature {number} is {name}, which flowml does not have"
        if name in before:
            return f"its feature {number} is {name} once more"
        if unit != units[name]:
            return f"its {name} is in {unit!r}, flowml's in {units[name]!r}"
        before.add(name)
    return None if trained else "it names none"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count_or_null(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_features(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(feature, dict) and _is_text(feature.get("name")) and _is_text(feature.get("unit"))
        for feature in value
    )


def _object_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


_MEMBERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "features": (_is_features, "an array of objects with name and unit"),
    "nan": (_is_text, "text"),
    "filter": (_is_text_or_null, "text or null"),
    "ip": (_is_text_or_null, "text or null"),
    "timeouts": (_object_of(_is_count_or_null), "an object of milliseconds or null"),
    "classes": (_object_of(lambda rows: rows is not None and _is_count_or_null(rows)), "an object of counts"),
    "estimator": (_is_text, "text"),
    "parameters": (_is_object, "an object"),
    "versions": (_object_of(_is_text), "an object of texts"),
    "data_sha256": (_is_text, "text"),
    "scores": (_is_object, "an object"),
    "created": (_is_text, "text"),
    "model_sha256": (_is_text, "text"),
}
