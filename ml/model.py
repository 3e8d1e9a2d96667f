"""Models on disk: `MODEL`, `MODEL.labels.json` and `MODEL.meta.json`.

A model is a pickle, and a pickle is a program. Loading therefore has two halves: `open_model` opens the
files and reads only the plain data, which may be done with more rights than the model deserves; and
`ModelFiles.load` runs the pickle, which is for after those rights are gone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO
from warnings import WarningMessage, catch_warnings, simplefilter

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from collector.errors import ModelError
from collector.features import FEATURES, NAMES, needs_of
from collector.records import Needs
from collector.trust import open_where_root
from ml import weights
from ml.atomic import replace_all
from ml.classifier import Classifier, one_line
from ml.contract import Contract
from ml.estimator import classifier_of
from ml.labels import from_json, labels_path, to_json
from ml.origin import Origin

__all__ = [
    "Classifier",
    "Contract",
    "ModelFiles",
    "contract_path",
    "labels_path",
    "open_model",
    "save",
    "save_bytes",
]

_SKLEARN_PACKAGES = (
    "calibration",
    "cluster",
    "compose",
    "covariance",
    "cross_decomposition",
    "decomposition",
    "discriminant_analysis",
    "dummy",
    "ensemble",
    "feature_extraction",
    "feature_selection",
    "gaussian_process",
    "impute",
    "isotonic",
    "kernel_approximation",
    "kernel_ridge",
    "linear_model",
    "manifold",
    "mixture",
    "model_selection",
    "multiclass",
    "multioutput",
    "naive_bayes",
    "neighbors",
    "neural_network",
    "pipeline",
    "preprocessing",
    "random_projection",
    "semi_supervised",
    "svm",
    "tree",
)
"""Where classifiers, and what is put before them, are from."""

_FOREST = "sklearn.ensemble._forest."
"""Estimators that hold none of other packages, so that less has to be imported: what `flowml train` makes."""

Opener = Callable[[Path], BinaryIO]


def contract_path(model: Path) -> Path:
    """The contract beside a model."""
    return model.with_name(model.name + ".meta.json")


def save(path: Path, estimator: Any, labels: Sequence[str], contract: Contract) -> Contract:
    """Writes a model, its labels and its contract: all of them, or none.

    Parameters
    ----------
    path
        Of the model; the others stand beside it.
    estimator
        Its `classes_` are indices into `labels`.
    contract
        Its `model_sha256` is filled in here.

    Returns
    -------
    The contract as it was written.

    Raises
    ------
    OutputError
        A file cannot be written; those of an earlier model are as they were.
    """
    pickled = io.BytesIO()
    joblib.dump(estimator, pickled)
    return save_bytes(path, pickled.getvalue(), labels, contract, labels_path(path))


def save_bytes(
    path: Path, data: bytes, labels: Sequence[str], contract: Contract, labels_file: Path
) -> Contract:
    """As `save`, for a model that already is bytes."""
    contract = replace(contract, model_sha256=hashlib.sha256(data).hexdigest())
    # The contract goes first and the model last: if the machine stops in between, the new contract's
    # SHA-256 is not that of the old model, and loading refuses the mixture.
    replace_all(
        [
            (contract_path(path), contract.to_json()),
            (labels_file, to_json(labels)),
            (path, data),
        ]
    )
    return contract


@dataclass(slots=True)
class ModelFiles:
    """A model whose files are read but whose pickle is not yet run.

    Attributes
    ----------
    path
        Of the model, for messages.
    data
        The bytes of the model file.
    contract
        None for a bare estimator.
    labels
        Indexed by class id; None if there is no file of labels.
    labels_name
        That file's, for messages.
    warnings
        What the user should know and is no reason to refuse; `check` and `load` add to it.
    force
        Whether to go on where the contract says that the model is not fit for what is asked.
    contract_file
        Of the contract, where it is not the one beside the model.
    """

    path: Path
    data: bytes = field(repr=False)
    contract: Contract | None
    labels: tuple[str, ...] | None
    labels_name: str
    warnings: list[str] = field(default_factory=list)
    force: bool = False
    contract_file: Path | None = None

    @property
    def contract_name(self) -> str:
        """Of the contract's file, for messages."""
        return (self.contract_file or contract_path(self.path)).name

    @property
    def features(self) -> tuple[str, ...]:
        """The names of those that the model is given, in its order."""
        return NAMES if self.contract is None else self.contract.columns()

    def check_kept(self, kept: Needs) -> None:
        """Makes sure that a program that keeps no more than this of a flow has all that the model looks at.

        Raises
        ------
        ModelError
            It has not; the text names the features. Of this `force` changes nothing.
        """
        if needs_of(self.features) & ~kept:
            missing = [one.name for one in FEATURES if one.name in self.features and one.needs & ~kept]
            raise ModelError(
                f"{self.path.name} looks at {', '.join(missing)}, which the programs attached do not keep: "
                "start flowml again with it"
            )

    def modules(self) -> list[str]:
        """Modules that unpickling will import: for a caller who cannot read them any more when it does.

        They are of a fixed list. A file of the user's does not decide what is imported with rights that the
        user may not have.
        """
        if weights.is_weights(self.data):
            weights.require_extra()
            return list(weights.MODULES)
        if self.contract is not None and self.contract.estimator.startswith(_FOREST):
            return ["sklearn.ensemble"]
        return [f"sklearn.{package}" for package in _SKLEARN_PACKAGES]

    def check(self, *, filter: str | None, ip: str | None, timeouts: Mapping[str, int | None]) -> None:
        """Compares the contract with the capture that the model is to serve.

        Parameters
        ----------
        filter
            Which connections will be asked about: tls or tcp; None if that is not known.
        ip
            The same of versions of IP: 4, 6 or both.
        timeouts
            `origin.TIMEOUTS`, in milliseconds; None where that is not known.

        Raises
        ------
        ModelError
            Features, NaN rule, filter, ip or a timeout differ; the text names the difference. With `force`
            all of them are warnings. What the contract does not know is only warned of.
        """
        if self.contract is None:
            return
        name = self.path.name
        self._refuse(self.contract.feature_differences(name))
        self._refuse(self.contract.origin_differences(name, Origin(filter, ip, dict(timeouts))))
        if unknown := self.contract.unknown_origin():
            self.warnings.append(
                f"{name} does not say with which {', '.join(unknown)} its training data was "
                "captured: answers are only good if it was with those of this capture"
            )

    def _refuse(self, differences: Sequence[str]) -> None:
        if differences and not self.force:
            raise ModelError(f"{differences[0]}; or go on all the same with --force")
        self.warnings += [text for text in differences if text not in self.warnings]

    def verify(self) -> None:
        """Compares the bytes, and the features, with the contract.

        Raises
        ------
        ModelError
            The bytes are not those that were trained, whether or not `force` is set; the features differ.
        """
        if self.contract is None:
            return
        self._refuse(self.contract.feature_differences(self.path.name))
        if hashlib.sha256(self.data).hexdigest() != self.contract.model_sha256:
            raise ModelError(
                f"{self.path.name} changed after training: its SHA-256 is not the one in "
                f"{self.contract_name}; restore both files, or train the model again"
            )

    def load(self) -> Classifier:
        """Runs the pickle, or reads the weights.

        Raises
        ------
        ModelError
            As `verify`; the pickle fails; what comes out is no classifier of flowml's features, or has more
            classes than there are labels. Of these `force` changes nothing.
        """
        self.verify()
        name = self.path.name
        if weights.is_weights(self.data):
            return weights.load(self)
        with catch_warnings(record=True) as caught:
            simplefilter("always")
            estimator = self._unpickle()
            classifier = classifier_of(estimator, name, self.labels, self.labels_name, self.features)
        self._pass_on(caught)
        if self.labels is not None and not set(classifier.labels) <= set(self.labels):
            self.warnings.append(f"{self.labels_name} is not used: the classes of {name} are text themselves")
        return classifier

    def _unpickle(self) -> Any:
        try:
            return joblib.load(io.BytesIO(self.data))
        except Exception as error:  # a pickle can fail in any way
            trained = self._trained_with()
            skew = f" (it is of scikit-learn {trained}, here is {sklearn.__version__})" if trained else ""
            if isinstance(error, (ImportError, PermissionError)):
                raise ModelError(
                    f"{self.path.name} needs what cannot be imported ({one_line(error)}){skew}; "
                    "install it, let the user that flowml runs as read it, or train the model again here"
                ) from error
            raise ModelError(
                f"{self.path.name} cannot be unpickled: {one_line(error)}{skew}; "
                "restore the file, or train the model again"
            ) from error

    def _trained_with(self) -> str | None:
        """The version of scikit-learn in the contract, if it is not the one installed."""
        version = self.contract.versions.get("scikit-learn") if self.contract else None
        return None if version == sklearn.__version__ else version

    def _pass_on(self, caught: Sequence[WarningMessage]) -> None:
        """Python's warnings as ours, each once; every tree of a forest tells of another version."""
        trained = self._trained_with()
        texts: list[str] = []
        for warning in caught:
            if isinstance(warning.message, InconsistentVersionWarning):
                trained = warning.message.original_sklearn_version
            else:
                texts.append(f"{self.path.name}: {' '.join(str(warning.message).split())}")
        if trained:
            texts.append(
                f"{self.path.name} was trained with scikit-learn {trained}, here is {sklearn.__version__}: "
                "its answers may differ; train it again to be sure"
            )
        self.warnings.extend(dict.fromkeys(texts))


def open_model(
    path: Path,
    labels_file: Path | None = None,
    opener: Opener = open_where_root,
    *,
    contract_file: Path | None = None,
    force: bool = False,
) -> ModelFiles:
    """Reads a model's three files, of which it parses only the plain data.

    Parameters
    ----------
    path
        Of the model.
    labels_file
        A JSON array of labels in place of the one beside the model.
    opener
        Opens a file for reading in binary. By itself it refuses root what others can write. Where the
        caller has more rights than the user who named the file, one that opens with that user's.
    contract_file
        The contract in place of the one beside the model.
    force
        As in `ModelFiles`.

    Raises
    ------
    ModelError
        A file cannot be read; the contract or the labels are not what they should be, or do not go together.
    """
    try:
        data = _read(path, opener)
    except FileNotFoundError:
        raise ModelError(f"there is no model {path}; name one, or make it with `flowml train`") from None
    notes = []
    contract = None
    contract_from = contract_path(path) if contract_file is None else contract_file
    try:
        text = _read(contract_from, opener)
    except FileNotFoundError:
        if contract_file is not None:
            raise ModelError(f"there is no contract {contract_file}; name one") from None
        notes.append(
            f"{path.name} has no contract ({contract_path(path).name}): that it was trained on flowml's "
            "features, in flowml's order, cannot be checked"
        )
    else:
        contract = Contract.from_json(text, contract_from.name)
    labels = None
    labels_from = labels_path(path) if labels_file is None else labels_file
    try:
        labels = from_json(_read(labels_from, opener), labels_from.name)
    except FileNotFoundError:
        if labels_file is not None:
            raise ModelError(f"there is no file of labels {labels_file}; name one") from None
        notes.append(f"{path.name} has no labels ({labels_from.name}): class ids are shown as unknown_<id>")
    if contract is not None and labels is not None and len(labels) != len(contract.classes):
        raise ModelError(
            f"{labels_from.name} has {len(labels)} labels, but {path.name} was trained on "
            f"{len(contract.classes)} classes; give the labels that it was trained with, in their order"
        )
    return ModelFiles(path, data, contract, labels, labels_from.name, notes, force, contract_file)


def _read(path: Path, opener: Opener) -> bytes:
    """Raises FileNotFoundError, which may be all right, and ModelError, which is not."""
    try:
        with opener(path) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror or error}; make it readable, or name another"
        ) from error
