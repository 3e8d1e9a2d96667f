"""A transformer on disk: the state of its network, as `torch.save` writes it, and nothing that could run.

The bins of the scaling are among the state; the hyperparameters are in the contract, and so is the scaling
once more, to be read and compared.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from typing import TYPE_CHECKING, Any

from collector.errors import ModelError, UsageError
from collector.features import NAMES
from ml.classifier import one_line
from ml.contract import Contract
from ml.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from ml.device import Device
    from ml.model import ModelFiles
    from ml.transformer import Network, TransformerClassifier

__all__ = [
    "ESTIMATOR",
    "MODULES",
    "PACKAGES",
    "hyperparameters_of",
    "is_weights",
    "load",
    "require_extra",
    "to_bytes",
]

ESTIMATOR = "ml.transformer.Network"
"""What the contract of such a model calls it."""

MODULES = ("ml.transformer",)
"""What loading and answering import."""

PACKAGES = ("torch", "iTransformer")
"""What answers depend on, besides what every model does."""

_EXTRA = "pip install 'flowml[transformer]'"


def is_weights(data: bytes) -> bool:
    """Whether a model file is of this kind, by what is in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError):
        return data.startswith(b"PK\x03\x04")  # of a zip cut short, that it is one is all that is left


def to_bytes(network: Network) -> bytes:
    """For the file."""
    import torch

    file = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, file)
    return file.getvalue()


def hyperparameters_of(contract: Contract, name: str) -> Hyperparameters:
    """Those that the network was built from.

    Parameters
    ----------
    name
        Of the contract, for messages.

    Raises
    ------
    ModelError
        The contract is not one of a transformer, or does not hold them.
    """
    if contract.estimator != ESTIMATOR:
        raise ModelError(f"{name} is the contract of {contract.estimator}, not of a transformer; restore it")
    return Hyperparameters.from_json(contract.parameters.get("hyperparameters"), name)


def load(
    files: ModelFiles,
    *,
    hyperparameters: Hyperparameters | None = None,
    device: Device | None = None,
    threads: int | None = 1,
) -> TransformerClassifier:
    """Builds the network that the weights are of.

    Parameters
    ----------
    files
        Whose warnings are added to.
    hyperparameters
        Where there is no contract that tells them.
    device
        Where to run; None: on the CPU.
    threads
        Of PyTorch in this process from now on: one, so that answering live leaves the other processors to
        the packets. None: as they are.

    Raises
    ------
    ModelError
        No weights; those of another network; a contract that says otherwise; labels of another length.
    """
    name, contract = files.path.name, files.contract
    if files.features != NAMES:
        raise ModelError(
            f"{files.contract_name} names other features than a transformer takes, which is all of flowml's, "
            "in their order; restore that file"
        )
    state = _state(files.data, name)
    import torch

    from ml import device as devices
    from ml import scaling, transformer

    if contract is not None:
        hyperparameters = hyperparameters_of(contract, files.contract_name)
    if hyperparameters is None:
        raise ModelError(
            f"{name} has no contract ({files.contract_name}), so its hyperparameters are not known; "
            "restore that file, or give them as flags to `flowml run-transformer`"
        )
    network = _network(state, name, hyperparameters)
    if contract is not None:
        told = scaling.from_json(contract.parameters.get("scaling"), files.contract_name)
        if told.tobytes() != network.edges.numpy().tobytes():
            raise ModelError(
                f"{files.contract_name} tells of another scaling than {name} has; restore both files"
            )
        files.warnings += _skew(contract, name)
    labels = _decoded(files, len(state["head.bias"]))
    if threads is not None:
        torch.set_num_threads(threads)
    return transformer.classifier_of(network, labels, device or devices.find("cpu"))


def require_extra() -> None:
    """Before anything is imported.

    Raises
    ------
    UsageError
        The packages of the extra are not installed.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(f"the transformer needs {' and '.join(missing)}, not installed here: {_EXTRA}")


def _state(data: bytes, name: str) -> dict[str, Any]:
    try:
        import torch

        import ml.transformer  # noqa: F401

        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ImportError, PermissionError) as error:
        raise ModelError(
            f"{name} needs what cannot be imported ({one_line(error)}); "
            f"{_EXTRA}, or let the user that flowml runs as read it"
        ) from error
    except Exception as error:  # it can fail in any way
        raise ModelError(
            f"{name} cannot be read as weights ({one_line(error)}); restore it, or train it again"
        ) from error
    is_state = isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    )
    if not is_state or not {"edges", "head.weight", "head.bias"} <= set(state):
        raise ModelError(
            f"{name} holds no weights of flowml's transformer; give what `flowml train-transformer` wrote"
        )
    for key, value in state.items():
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ModelError(f"{name}: {key} is not finite float32 numbers; restore it, or train it again")
    return dict(state)


def _network(state: dict[str, Any], name: str, hyperparameters: Hyperparameters) -> Network:
    from ml.transformer import Network

    edges, bias = state["edges"], state["head.bias"]
    if edges.ndim != 2 or edges.shape[1] < 2 or bias.ndim != 1 or len(bias) < 1:
        raise ModelError(f"{name} holds no weights of flowml's transformer; restore it, or train it again")
    if len(edges) != len(NAMES):
        raise ModelError(
            f"{name} takes {len(edges)} features, but flowml has {len(NAMES)}; train it on those"
        )
    network = Network(hyperparameters, edges.numpy(), len(bias))
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if found != wanted:
        key = min(key for key in found | wanted if found.get(key) != wanted.get(key))
        raise ModelError(
            f"{name} has weights for other hyperparameters: {key} is {found.get(key, 'not there')}, "
            f"they want {wanted.get(key, 'none')}; give those that it was trained with"
        )
    network.load_state_dict(state)
    return network


def _decoded(files: ModelFiles, n_classes: int) -> tuple[str, ...]:
    if files.labels is None:
        return tuple(f"unknown_{i}" for i in range(n_classes))
    if len(files.labels) != n_classes:
        raise ModelError(
            f"{files.labels_name} has {len(files.labels)} labels, but {files.path.name} has {n_classes} "
            "classes; give the labels that the model was trained with"
        )
    return files.labels


def _skew(contract: Contract, name: str) -> list[str]:
    """Of PyTorch any version computes the same; what the network is, is the other package's to say."""
    from ml.transformer import PACKAGE_VERSION

    trained = contract.versions.get("iTransformer")
    if trained in (None, PACKAGE_VERSION):
        return []
    return [
        f"{name} was trained with iTransformer {trained}, here is {PACKAGE_VERSION}: its answers may differ; "
        "train it again to be sure"
    ]
