"""The iTransformer's hyperparameters: names, defaults, ranges, meanings. Without torch: --help needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from collector.errors import ModelError, UsageError

__all__ = ["DEFAULTS", "Hyperparameters", "chosen", "meaning"]

_FEATURES = 17
_MOST = 65_536


def _whole(default: int, meaning: str, least: int = 1, most: int = _MOST) -> Any:
    return field(default=default, metadata={"meaning": meaning, "least": least, "most": most})


def _share(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


def _switch(default: bool, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a network is built from; why these defaults: docs/models-transformer.md.

    Raises
    ------
    UsageError
        A value out of range.
    """

    num_variates: int = _whole(_FEATURES, "features of a row: flowml has 17", _FEATURES, _FEATURES)
    lookback_len: int = _whole(1, "connections in a window: this one, and the device's last before", 1, 1024)
    pred_length: int = _whole(1, "numbers that each variate hands to the linear head", 1, 4096)
    depth: int = _whole(2, "layers", 1, 256)
    dim: int = _whole(64, "width of a token")
    heads: int = _whole(4, "attention heads", 1, 4096)
    dim_head: int = _whole(16, "width of an attention head", 1, 4096)
    num_tokens_per_variate: int = _whole(1, "tokens that a variate becomes", 1, 4096)
    attn_dropout: float = _share(0.1, "share of attention dropped in training")
    ff_mult: int = _whole(4, "width of the feed-forward layers, in widths of a token", 1, 4096)
    ff_dropout: float = _share(0.1, "share of the feed-forward layers dropped in training")
    num_mem_tokens: int = _whole(0, "learned tokens beside those of the variates", 0)
    use_reversible_instance_norm: bool = _switch(False, "normalise each variate of each window for itself")
    flash_attn: bool = _switch(True, "PyTorch's fused attention in place of the written-out one")

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if wanted := _refusal(value, one):
                raise UsageError(f"--{one.name.replace('_', '-')} {value}: give {wanted}")

    def to_json(self) -> dict[str, Any]:
        """For the contract."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object, name: str) -> Hyperparameters:
        """Reads what `to_json` made.

        Parameters
        ----------
        name
            Of the contract, for messages.

        Raises
        ------
        ModelError
            One is missing, unknown, of the wrong kind or out of range.
        """
        known = {one.name for one in fields(cls)}
        if not isinstance(document, Mapping) or set(document) != known:
            raise ModelError(
                f"{name} does not hold the hyperparameters of a transformer; restore it, or train again"
            )
        for one in fields(cls):
            if wanted := _refusal(document[one.name], one):
                raise ModelError(
                    f"{name}: {one.name} = {document[one.name]!r} must be {wanted}; "
                    "restore it, or train again"
                )
        return cls(**document)


def _refusal(value: object, one: Any) -> str:
    """What the value should have been; empty if it may be this hyperparameter's."""
    if isinstance(one.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(value, bool):
        return "a number"
    if isinstance(one.default, float):
        is_share = isinstance(value, (int, float)) and 0 <= value < 1
        return "" if is_share else "a number from 0 to less than 1"
    least, most = one.metadata["least"], one.metadata["most"]
    if isinstance(value, int) and least <= value <= most:
        return ""
    return f"{least}" if least == most else f"a whole number from {least} to {most}"


DEFAULTS = Hyperparameters()


def meaning(name: str) -> str:
    """Of a hyperparameter, for the help."""
    (one,) = (one for one in fields(Hyperparameters) if one.name == name)
    return str(one.metadata["meaning"])


def chosen(flags: Mapping[str, Any], base: Hyperparameters = DEFAULTS) -> Hyperparameters:
    """The hyperparameters of `base` with the flags over them; a flag that is None was not given."""
    return replace(base, **{name: value for name, value in flags.items() if value is not None})
