"""Where the transformer runs: on the CPU or on a GPU, where training is in half precision."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from collector.errors import UsageError

__all__ = ["DEVICES", "Device", "find"]

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Device:
    """A device, and how a network is trained on it. Answers are in float32 on each: all give the same.

    Attributes
    ----------
    place
        Where PyTorch runs.
    dtype
        Of the matrix products of training; the weights themselves are float32 everywhere.
    """

    place: torch.device
    dtype: torch.dtype

    @property
    def is_gpu(self) -> bool:
        """Whether it has a memory of its own."""
        return self.place.type == "cuda"

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """In its body matrix products are in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.place.type, dtype=self.dtype)

    def __str__(self) -> str:
        if self.is_gpu:
            return f"{self.place} ({torch.cuda.get_device_name(self.place)})"
        threads = torch.get_num_threads()
        return f"{self.place}, {threads} thread{'s' if threads > 1 else ''}"

    @property
    def to_train(self) -> str:
        """It and its precision, for people."""
        return f"{self}, {str(self.dtype).removeprefix('torch.')}"


def find(name: str) -> Device:
    """The device of that name; auto is a GPU where there is one.

    Raises
    ------
    UsageError
        No such device here.
    """
    if name not in DEVICES:
        raise UsageError(f"--device {name}: give one of {', '.join(DEVICES)}")
    has_gpu = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UsageError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU here; give --device cpu, "
            "or install a PyTorch for it"
        )
    if not has_gpu:
        return Device(torch.device("cpu"), torch.float32)
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return Device(torch.device("cuda"), half)
