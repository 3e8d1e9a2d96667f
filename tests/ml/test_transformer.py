"""The transformer as a model: saved whole, served as it was trained, and refused in one line."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from collector.errors import DatasetError, FlowmlError, ModelError, UsageError
from collector.features import NAMES
from ml import scaling, weights
from ml.classifier import Sequential
from ml.device import find
from ml.evaluate import answers
from ml.hyperparameters import DEFAULTS, Hyperparameters, chosen
from ml.model import contract_path, labels_path, open_model, save_bytes
from ml.transformer import Network, SequenceClassifier, classifier_of
from ml.transformer_training import Schedule, batch_rows, fit
from tests.ml.samples import MACS, TIMEOUTS, contract, dataset, numbers
from tests.ml.test_model import WITHOUT_IMPORTS

SMALL = Hyperparameters(dim=8, depth=1, heads=2, dim_head=4, lookback_len=2)
CPU = find("cpu")
X = numbers(0, 60)


def network(seed: int = 0, hyperparameters: Hyperparameters = SMALL) -> Network:
    torch.manual_seed(seed)
    return Network(hyperparameters, scaling.edges_of(X), len(MACS))


def write(path: Path, one: Network, **changes: Any) -> Path:
    """The three files of a network."""
    parameters = {
        "hyperparameters": one.hyperparameters.to_json(),
        "scaling": scaling.to_json(one.edges.numpy()),
    }
    members = {"estimator": weights.ESTIMATOR, "parameters": parameters, **changes}
    save_bytes(path, weights.to_bytes(one), MACS, contract(**members), labels_path(path))
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A network with its labels and its contract, by no name that would tell what it is."""
    return write(tmp_path / "model", network())


def refusal(action: Callable[[], object], kind: type[FlowmlError] = ModelError) -> str:
    with pytest.raises(kind) as refused:
        action()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_round_trip(saved: Path) -> None:
    """What was saved is served, told from a pickle by its content: the same probabilities, and the labels."""
    files = open_model(saved)
    files.check(filter="tls", ip="4", timeouts=TIMEOUTS)

    served = files.load()

    classes, probabilities = served.predict(X)
    expected = classifier_of(network(), MACS, CPU).predict(X)
    assert files.warnings == []
    assert served.labels == MACS
    assert classes.tolist() == expected[0].tolist()
    assert probabilities.tolist() == expected[1].tolist()
    assert [len(part) for part in served.predict(np.empty((0, 17)))] == [0, 0]


def test_artifacts(saved: Path) -> None:
    """The contract holds every hyperparameter, the scaling, and the SHA-256 of the weights."""
    told = open_model(saved).contract

    assert told is not None
    assert told.model_sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert told.parameters["hyperparameters"] == SMALL.to_json()
    assert list(told.parameters["scaling"]) == list(NAMES)
    assert orjson.loads(labels_path(saved).read_bytes()) == list(MACS)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 300))
def test_training_and_serving_see_the_same(seed: int, rows: int) -> None:
    """The logits of training's windows, and what is served for the rows in turn, agree row for row.

    Within float32's rounding: a batch of another size is multiplied in another order.
    """
    random = np.random.default_rng(seed)
    data = replace(
        dataset(random.integers(0, 2, rows).tolist(), captures=random.integers(0, 3, rows).tolist()),
        X=numbers(seed, rows),
    )
    one = network(seed % 3).eval()
    served = classifier_of(one, MACS, CPU)
    assert isinstance(served, SequenceClassifier)

    classes, probabilities = answers(served, data)

    from ml.transformer_training import _windows
    from ml.windows import histories

    windows = _windows(torch.from_numpy(data.X.astype(np.float32)), torch.from_numpy(histories(data, 2)))
    expected = one(windows).double().softmax(1).numpy()
    assert probabilities == pytest.approx(expected.max(1), abs=1e-5)
    assert probabilities == pytest.approx(expected[np.arange(rows), classes], abs=1e-5)


def test_one_row_windows_need_no_memory() -> None:
    """Without a look back rows are told nothing of each other; with one the second differs from the first."""
    alone = classifier_of(network(hyperparameters=replace(SMALL, lookback_len=1)), MACS, CPU)
    served = classifier_of(network(), MACS, CPU)
    row = X[:1]

    assert not isinstance(alone, Sequential)
    assert isinstance(served, Sequential)
    first = served.predict_in_turn(row, ["a"])[1]
    second = served.predict_in_turn(row, ["a"])[1]
    other = served.predict_in_turn(row, ["b"])[1]
    assert first == served.predict(row)[1] == other
    assert first != second
    served.forget()
    assert served.predict_in_turn(row, ["a"])[1] == first


def test_features_are_told_apart() -> None:
    """The same value in another feature gives another answer, which the package alone could not do."""
    edges = scaling.edges_of(np.tile(np.linspace(0, 1, 9)[:, None], len(NAMES)))
    torch.manual_seed(0)
    one = classifier_of(Network(SMALL, edges, 2), MACS[:2], CPU)
    rows = np.full((2, 17), 0.5)
    rows[0, 0] = rows[1, 1] = 0.9

    assert len(set(one.predict(rows)[1])) == 2


def test_instance_norm_over_one_step_leaves_a_linear_model() -> None:
    """Of a bare iTransformer: its layers see the same for every row, and the way back adds the level.

    So the answer is an affine function of the values, with one factor for all features: what a logistic
    regression could do.
    """
    from iTransformer import iTransformer  # not before ml.transformer, which quietens it

    torch.manual_seed(0)
    bare = iTransformer(
        num_variates=17,
        lookback_len=1,
        depth=2,
        dim=8,
        pred_length=1,
        num_residual_streams=1,
        use_reversible_instance_norm=True,
    ).eval()
    rows = torch.randn(50, 1, 17)

    with torch.no_grad():
        found = bare(rows)

    factor = bare.pred_heads[0][1].weight.detach().sum()
    expected = factor * (rows - rows[0, 0, 0]) + found[0, 0, 0]
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_seed() -> None:
    """On a CPU the same seed gives the same weights, another gives others; torch's own state is untouched."""
    data = replace(dataset([0, 1, 2] * 20), X=X)
    schedule = Schedule(epochs=2, batch_size=16, seed=3)
    before = torch.random.get_rng_state()

    one = weights.to_bytes(fit(data, SMALL, schedule, CPU, lambda: None))
    torch.rand(5)
    other = weights.to_bytes(fit(data, SMALL, schedule, CPU, lambda: None))
    another = weights.to_bytes(fit(data, SMALL, replace(schedule, seed=4), CPU, lambda: None))

    assert one == other
    assert one != another
    torch.random.set_rng_state(before)
    fit(data, SMALL, schedule, CPU, lambda: None)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_learns(dtype: torch.dtype) -> None:
    """What one feature tells, and what only its being undefined tells: in a GPU's precisions too.

    Weights stay float32. The scale that float16's loss begins with is too large, so that first steps are left
    out: no warning.
    """
    random = np.random.default_rng(0)
    values = random.lognormal(0, 3, (600, 17))
    y = np.where(values[:, 3] > 1, 1, 0)
    hidden = random.random(600) < 0.3
    values[hidden, 7] = np.nan
    y[hidden] = 2
    data = replace(dataset(y.tolist()), X=values)

    schedule, device = Schedule(epochs=20, batch_size=32, lr=1e-2), replace(CPU, dtype=dtype)
    one = fit(data, replace(SMALL, lookback_len=1), schedule, device, lambda: None)

    assert {value.dtype for value in one.parameters()} == {torch.float32}
    assert (classifier_of(one, data.classes, CPU).predict(values)[0] == y).mean() > 0.97


def test_answers_are_the_same_in_every_precision_of_training() -> None:
    """They are in float32 on a GPU too, so that a label does not depend on where it was asked for."""
    half = replace(CPU, dtype=torch.bfloat16)

    rough, fine = (classifier_of(network(), MACS, device).predict(X) for device in (half, CPU))

    assert rough[0].tolist() == fine[0].tolist()
    assert rough[1].tolist() == fine[1].tolist()


def test_diverging_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are none any more end training, in one line."""
    data = replace(dataset([0, 1, 2] * 20), X=X)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, y: (logits * np.nan).sum())

    said = refusal(lambda: fit(data, SMALL, Schedule(epochs=3), CPU, lambda: None), DatasetError)

    assert said == "the loss is nan after epoch 1: training diverged at --lr 0.003; give a lower one"


def test_loads_without_reading_the_libraries(saved: Path) -> None:
    """Once `modules` are imported, loading and answering read no file of the libraries any more."""

    def run(when: str) -> str:
        command = [sys.executable, "-W", "error", "-c", WITHOUT_IMPORTS, str(saved), when]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout.strip()

    assert run("early") in MACS
    assert run("late").startswith("model needs what cannot be imported (ModuleNotFoundError: ")


def test_serving_starts_no_gpu(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one, starting it up imports more libraries: too late for a process without rights."""

    def start(*_: object) -> None:
        raise AssertionError("a GPU was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", start)

    assert len(open_model(saved).load().predict(X)[0]) == len(X)


@pytest.mark.parametrize("kind", ["DeprecationWarning", "FutureWarning"])
def test_what_the_package_uses_is_no_matter_of_the_user(kind: str) -> None:
    """PyTorch warns of the package's use of torch.jit, from 2.14 on with another kind: nothing is printed."""
    code = (
        "import warnings, torch\n"
        "def script(one, *_, **__):\n"
        f"    warnings.warn('`torch.jit.script` is deprecated. Please switch.', {kind}, stacklevel=2)\n"
        "    return one\n"
        "torch.jit.script = script\n"
        "import ml.transformer\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")


def test_loading_runs_nothing(tmp_path: Path) -> None:
    """Weights are read as weights: a pickle in their place does not run, whatever it is called."""
    trace = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    path = tmp_path / "model.pt"
    torch.save({"edges": Hostile()}, path)

    assert "cannot be read as weights" in refusal(open_model(path).load)
    assert not trace.exists()


def test_a_forest_by_the_name_of_weights(tmp_path: Path) -> None:
    """Is served as the forest that it is."""
    path = tmp_path / "model.pt"
    joblib.dump(RandomForestClassifier(2, random_state=0).fit(X, np.arange(60) % 3), path)

    assert not weights.is_weights(path.read_bytes())
    assert open_model(path).load().labels == ("unknown_0", "unknown_1", "unknown_2")


def state() -> dict[str, Any]:
    return dict(network().state_dict())


def no_number(key: str) -> dict[str, Any]:
    one = state()
    one[key] = torch.full_like(one[key], np.nan)
    return one


BAD_STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: [1, 2], "model holds no weights of flowml's transformer; "),
    "other keys": (lambda: {"a": torch.zeros(2)}, "model holds no weights of flowml's transformer; "),
    "no tensors": (lambda: {"a": "dictionary"}, "model holds no weights of flowml's transformer; "),
    "other width": (
        lambda: state() | {"edges": torch.zeros(16, 5)},
        "model takes 16 features, but flowml has 17; train it on those",
    ),
    "edges of one dimension": (lambda: state() | {"edges": torch.zeros(17)}, "model holds no weights of "),
    "no number": (lambda: no_number("head.weight"), "model: head.weight is not finite float32 numbers; "),
    "other type": (
        lambda: state() | {"head.bias": torch.zeros(3, dtype=torch.int64)},
        "model: head.bias is not finite float32 numbers; ",
    ),
    "one more": (
        lambda: state() | {"more": torch.zeros(3)},
        "model has weights for other hyperparameters: more is (3,), they want none; ",
    ),
    "other classes": (
        lambda: state() | {"head.bias": torch.zeros(4)},
        "model has weights for other hyperparameters: head.weight is (3, 17), they want (4, 17); ",
    ),
    "a network": (network, "model cannot be read as weights (UnpicklingError: "),
}


@pytest.mark.parametrize("which", BAD_STATES)
def test_other_weights(tmp_path: Path, which: str) -> None:
    """What is no state of such a network is refused, with the difference."""
    make, expected = BAD_STATES[which]
    path = tmp_path / "model"
    torch.save(make(), path)
    files = open_model(path)

    with pytest.raises(ModelError) as refused:
        weights.load(files, hyperparameters=SMALL)

    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cut", [5, 100, 1000, -100, -1])
def test_cut_short(saved: Path, cut: int) -> None:
    """Weights cut short anywhere are one line."""
    files = replace(open_model(saved), data=saved.read_bytes()[:cut], contract=None)

    assert "restore it" in refusal(files.load) or cut == 5


def test_changed_weights(saved: Path) -> None:
    """One bit is enough."""
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)

    assert "changed after training" in refusal(open_model(saved).load)


def test_empty_file(tmp_path: Path) -> None:
    """Is one line."""
    (tmp_path / "m.pt").write_bytes(b"")

    assert refusal(open_model(tmp_path / "m.pt").load).startswith("m.pt cannot be unpickled: ")


@pytest.mark.parametrize("labels", [b'["a", "b"]', b'["a", "b", "c", "d"]'])
def test_labels_of_another_length(saved: Path, labels: bytes) -> None:
    """Fewer, or more, than there are classes are refused, with both numbers; without a contract too."""
    labels_path(saved).write_bytes(labels)
    count = len(orjson.loads(labels))

    with_contract = refusal(lambda: open_model(saved).load())
    contract_path(saved).unlink()
    without = refusal(lambda: weights.load(open_model(saved), hyperparameters=SMALL))

    assert with_contract.startswith(
        f"model.labels.json has {count} labels, but model was trained on 3 classes; "
    )
    assert without.startswith(f"model.labels.json has {count} labels, but model has 3 classes; ")


def test_no_labels(saved: Path) -> None:
    """Class ids in their place, with a warning."""
    labels_path(saved).unlink()
    files = open_model(saved)

    assert files.load().labels == ("unknown_0", "unknown_1", "unknown_2")
    assert files.warnings == ["model has no labels (model.labels.json): class ids are shown as unknown_<id>"]


def test_no_contract(saved: Path) -> None:
    """Without one the hyperparameters have to be told; told wrongly it is said where they differ."""
    contract_path(saved).unlink()
    files = open_model(saved)

    assert refusal(files.load) == (
        "model has no contract (model.meta.json), so its hyperparameters are not known; "
        "restore that file, or give them as flags to `flowml run-transformer`"
    )
    assert weights.load(files, hyperparameters=SMALL).labels == MACS
    assert refusal(lambda: weights.load(files, hyperparameters=replace(SMALL, dim=16))).startswith(
        "model has weights for other hyperparameters: "
        "transformer.layers.0.0.branch.norm.weight is (8,), they want (16,); "
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"estimator": "a.b"}, "model.meta.json is the contract of a.b, not of a transformer; restore it"),
        (
            {"parameters": {}},
            "model.meta.json does not hold the hyperparameters of a transformer; restore it, or train again",
        ),
        (
            {"parameters": {"hyperparameters": {**SMALL.to_json(), "depth": "2"}}},
            "model.meta.json: depth = '2' must be a whole number from 1 to 256; restore it, or train again",
        ),
        (
            {"parameters": {"hyperparameters": {**SMALL.to_json(), "flash_attn": 1}}},
            "model.meta.json: flash_attn = 1 must be true or false; restore it, or train again",
        ),
        (
            {
                "parameters": {
                    "hyperparameters": SMALL.to_json(),
                    "scaling": {name: [0.0, 1.0] for name in NAMES},
                }
            },
            "model.meta.json tells of another scaling than model has; restore both files",
        ),
    ],
)
def test_a_contract_of_something_else(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    """What does not describe these weights is refused, with the difference."""
    assert refusal(open_model(write(tmp_path / "model", network(), **changes)).load) == expected


def test_other_version(tmp_path: Path) -> None:
    """Weights that another release of the package trained are served with a warning."""
    files = open_model(write(tmp_path / "model", network(), versions={"iTransformer": "0.1"}))

    files.load()

    (warning,) = files.warnings
    assert warning.startswith("model was trained with iTransformer 0.1, here is ")


@pytest.mark.parametrize("kind", [pickle.dumps({"a": 1}), b"PK", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_weights(kind: bytes) -> None:
    """A pickle, or a zip of something else, is not taken for weights."""
    assert not weights.is_weights(kind)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"num_variates": 16}, "--num-variates 16: give 17"),
        ({"depth": 0}, "--depth 0: give a whole number from 1 to 256"),
        ({"attn_dropout": 1.0}, "--attn-dropout 1.0: give a number from 0 to less than 1"),
        ({"ff_dropout": float("nan")}, "--ff-dropout nan: give a number from 0 to less than 1"),
        ({"lookback_len": 0}, "--lookback-len 0: give a whole number from 1 to 1024"),
    ],
)
def test_hyperparameters_out_of_range(flags: dict[str, Any], said: str) -> None:
    """Are refused, with what may be given."""
    assert refusal(lambda: chosen(flags), UsageError) == said


@pytest.mark.parametrize(
    "flags", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"seed": -1}]
)
def test_schedules_out_of_range(flags: dict[str, Any]) -> None:
    """Are refused in one line."""
    assert refusal(lambda: Schedule(**flags), UsageError).startswith(
        f"--{next(iter(flags)).replace('_', '-')} "
    )


@pytest.mark.parametrize(
    "flags",
    [
        {"pred_length": 3},
        {"num_tokens_per_variate": 2},
        {"num_mem_tokens": 3},
        {"use_reversible_instance_norm": True},
        {"flash_attn": False},
        {"ff_mult": 1},
        {"attn_dropout": 0.5, "ff_dropout": 0.5},
    ],
)
def test_every_hyperparameter_works(tmp_path: Path, flags: dict[str, Any]) -> None:
    """It trains, and what was trained is served."""
    data = replace(dataset([0, 1, 2] * 20), X=X, classes=MACS)
    one = fit(data, chosen(flags, SMALL), Schedule(epochs=1), CPU, lambda: None)

    served = open_model(write(tmp_path / "model", one)).load()

    assert np.isfinite(served.predict(X)[1]).all()


def test_devices() -> None:
    """A device that is not there is refused; on a CPU batches are small, on a GPU they grow with the data."""
    gpu = replace(CPU, place=torch.device("cuda"))

    assert refusal(lambda: find("tpu"), UsageError) == "--device tpu: give one of auto, cpu, cuda"
    if not torch.cuda.is_available():
        assert "finds no GPU here; give --device cpu" in refusal(lambda: find("cuda"), UsageError)
        assert find("auto") == CPU
    assert [batch_rows(Schedule(), rows, CPU) for rows in (10, 10**7)] == [128, 128]
    assert [batch_rows(Schedule(), rows, gpu) for rows in (10, 10**5, 10**7)] == [128, 1024, 4096]
    assert batch_rows(Schedule(batch_size=7), 10**7, gpu) == 7


def test_defaults_are_within_their_ranges() -> None:
    """They are themselves hyperparameters, and survive the contract."""
    assert Hyperparameters.from_json(DEFAULTS.to_json(), "m") == DEFAULTS
