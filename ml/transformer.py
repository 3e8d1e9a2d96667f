"""The iTransformer and a linear head, as a `Classifier`.

How a connection reaches it. An iTransformer makes one token of each variate, here of each feature, from all
that is known of it over time; attention then runs between the features. The package has one projection for
all of them and no position, so that from a bare value it could not tell a duration from a TTL. The axis that
it calls lookback therefore carries, for each feature and in this order: which feature it is (one number a
feature, one of them 1); and for each connection of the window, oldest first, the number of each of its bins
(`ml.scaling`) and whether the feature is defined. So the input is (rows, 17 + lookback_len * (bins + 1), 17)
where that of a plain one would be (rows, lookback_len, 17), and `num_variates` stays the 17 features.

The scaling is part of the network: what training sees and what serving sees cannot differ, and a GPU does it.

Importing this module imports all that loading and answering need, for a process that later may not be able
to read the libraries any more.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.serialization.config  # what torch.load would import only then
from torch import Tensor, nn

from collector.features import NAMES
from ml.classifier import Answers, most_probable
from ml.device import Device
from ml.hyperparameters import Hyperparameters
from ml.scaling import Edges
from ml.windows import Memory

with warnings.catch_warnings():
    # A package that it imports uses it; which kind of warning that is depends on PyTorch's version.
    warnings.filterwarnings("ignore", r".torch\.jit\.script. is deprecated")
    from iTransformer import iTransformer
    from iTransformer.attend import Attend

__all__ = ["PACKAGE_VERSION", "Network", "SequenceClassifier", "TransformerClassifier", "classifier_of"]

PACKAGE_VERSION = importlib.metadata.version("iTransformer")
"""Asked for now, while the files that tell it can be read."""

_ROWS_AT_ONCE = 128
"""On a CPU, where more would leave the cache."""
_ROWS_AT_ONCE_ON_A_GPU = 8192


class Network(nn.Module):
    """Windows of rows to the logit of each class.

    Parameters
    ----------
    hyperparameters
        Of the iTransformer.
    edges
        As in `ml.scaling`; part of the state.
    n_classes
        How many.
    """

    edges: Tensor

    def __init__(self, hyperparameters: Hyperparameters, edges: Edges, n_classes: int) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.register_buffer("edges", torch.from_numpy(edges.copy()))
        given = hyperparameters.to_json()
        numbers = edges.shape[1]  # one a bin, and one whether it is defined
        given["lookback_len"] = given["num_variates"] + given["lookback_len"] * numbers
        given["flash_attn"] = False  # see below
        # Its four streams of residuals take several times as long, and learn no better here.
        self.transformer = iTransformer(**given, num_residual_streams=1)
        for part in self.transformer.modules():
            if isinstance(part, Attend):
                # Fused attention is asked for afterwards. Asked for at once, the package would start up a GPU
                # in a process that answers on the CPU, and may have no rights by then; print its name on
                # standard output; and take one of PyTorch's kernels by it, which may know no float32, or no
                # heads so wide. Of all of them, as on a CPU, PyTorch takes the first that can.
                part.flash, part.cuda_config = hyperparameters.flash_attn, part.cpu_config
        self.head = nn.Linear(given["num_variates"] * given["pred_length"], n_classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Shape (n, lookback_len, 17), float32, NaN where undefined, to (n, n_classes)."""
        variates = windows.shape[2]
        which = torch.eye(variates, device=windows.device).expand(len(windows), -1, -1)
        steps = self._scaled(windows).permute(0, 2, 1, 3).flatten(2)
        predicted = self.transformer(torch.cat([which, steps], dim=2).transpose(1, 2))
        logits: Tensor = self.head(predicted.flatten(1))
        return logits

    def _scaled(self, windows: Tensor) -> Tensor:
        """To shape (n, lookback_len, 17, bins + 1)."""
        low, width = self.edges[:, :-1], self.edges.diff(dim=1)
        filled = ((windows.unsqueeze(3) - low) / width).clamp(0, 1)
        # Where a feature has fewer bins there is no width; where it is undefined there is no value.
        filled = filled.masked_fill((width == 0) | filled.isnan(), 0)
        return torch.cat([filled, windows.isfinite().unsqueeze(3).float()], dim=3)


class TransformerClassifier:
    """A network that answers for each row alone, as if it were its device's first.

    Parameters
    ----------
    network
        Whose weights stay as they are.
    labels
        Of its classes.
    device
        Where it runs.
    """

    def __init__(self, network: Network, labels: tuple[str, ...], device: Device) -> None:
        self.labels = labels
        self._network = network.eval().requires_grad_(False)
        self.to(device)

    def to(self, device: Device) -> None:
        """Runs there from now on."""
        self._network.to(device.place)
        self._device = device

    @property
    def lookback_len(self) -> int:
        """Rows in a window."""
        return self._network.hyperparameters.lookback_len

    def probabilities(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Of every class, shape (n_rows, n_classes), for windows as from `ml.windows`."""
        found = np.empty((len(windows), len(self.labels)))
        step = _ROWS_AT_ONCE_ON_A_GPU if self._device.is_gpu else _ROWS_AT_ONCE
        with torch.inference_mode():
            for first in range(0, len(windows), step):
                part = torch.from_numpy(windows[first : first + step]).to(self._device.place)
                found[first : first + step] = self._network(part).double().softmax(dim=1).cpu().numpy()
        return found

    def predict(self, X: npt.NDArray[np.float64]) -> Answers:
        """See `Classifier.predict`."""
        windows = np.full((len(X), self.lookback_len, len(NAMES)), np.nan, np.float32)
        windows[:, -1] = X
        return most_probable(self.probabilities(windows))


class SequenceClassifier(TransformerClassifier):
    """A network that remembers the last rows of each device: `lookback_len` is more than 1."""

    def __init__(self, network: Network, labels: tuple[str, ...], device: Device) -> None:
        super().__init__(network, labels, device)
        self._memory = Memory(self.lookback_len)

    def predict_in_turn(self, X: npt.NDArray[np.float64], senders: Sequence[Hashable]) -> Answers:
        """See `Sequential.predict_in_turn`."""
        return most_probable(self.probabilities(self._memory.windows(X, senders)))

    def forget(self) -> None:
        """See `Sequential.forget`."""
        self._memory.forget()


def classifier_of(network: Network, labels: tuple[str, ...], device: Device) -> TransformerClassifier:
    """The network as a classifier: with a memory if its windows are longer than a row."""
    has_memory = network.hyperparameters.lookback_len > 1
    return (SequenceClassifier if has_memory else TransformerClassifier)(network, labels, device)
