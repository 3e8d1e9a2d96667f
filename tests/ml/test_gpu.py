"""The transformer on a GPU: what is learned there, and that it answers elsewhere as it does there.

Skipped where PyTorch finds none; what a CPU can go of that way is in test_transformer.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch

from ml.dataset import Dataset
from ml.device import find
from ml.hyperparameters import Hyperparameters
from ml.model import contract_path, open_model
from ml.transformer import classifier_of
from ml.transformer_training import Schedule, fit
from tests.ml.samples import MACS, dataset, numbers, write
from tests.ml.test_transformer import CPU, SMALL, network
from tests.ml.test_transformer import write as write_model
from tests.ml.test_transformer_commands import flowml, rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")

HALF = [torch.bfloat16, torch.float16]
ALONE = replace(SMALL, lookback_len=1)


def told_by_one_feature(n: int) -> Dataset:
    """Rows of three classes, which one feature tells apart."""
    X = np.random.default_rng(0).lognormal(0, 3, (n, 17))
    return replace(dataset(np.digitize(X[:, 3], [0.3, 3.0]).tolist()), X=X)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("hyperparameters", [ALONE, SMALL], ids=["alone", "windows"])
def test_it_learns(dtype: torch.dtype, hyperparameters: Hyperparameters) -> None:
    """In both precisions that a GPU may have; the weights stay float32."""
    gpu = replace(find("cuda"), dtype=dtype)
    data = told_by_one_feature(600)

    one = fit(data, hyperparameters, Schedule(epochs=20, batch_size=32, lr=1e-2), gpu, lambda: None)

    assert {(value.dtype, value.device.type) for value in one.parameters()} == {(torch.float32, "cuda")}
    assert (classifier_of(one, data.classes, gpu).predict(data.X)[0] == data.y).mean() > 0.9


def test_auto_takes_it() -> None:
    """And says which it is, and in which precision it works."""
    found = find("auto")

    assert found.is_gpu
    assert torch.cuda.get_device_name() in str(found)
    assert found.dtype in HALF


def test_the_same_seed() -> None:
    """Leaves torch's own state as it was, on the GPU too; another seed makes other weights."""
    gpu = find("cuda")
    data = told_by_one_feature(100)
    before = torch.cuda.get_rng_state()

    one, other = (fit(data, ALONE, Schedule(epochs=1, seed=seed), gpu, lambda: None) for seed in (0, 1))

    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("n", [1, 100, 8192, 20_000])
@pytest.mark.parametrize("flash_attn", [True, False])
def test_it_answers_as_a_cpu_does(n: int, flash_attn: bool) -> None:
    """However many rows are asked for at a time."""
    hyperparameters = replace(ALONE, flash_attn=flash_attn)
    X = numbers(1, n)

    there, here = (
        classifier_of(network(hyperparameters=hyperparameters), MACS, device).predict(X)
        for device in (find("cuda"), CPU)
    )

    assert there[1].shape == here[1].shape
    assert np.abs(there[1] - here[1]).max() < 1e-5
    assert (there[0] == here[0]).mean() > 0.999


def test_a_model_from_there_serves_here(tmp_path: Path) -> None:
    """No weight asks for a GPU, and the answers are those that it gave there."""
    gpu = find("cuda")
    trained = fit(told_by_one_feature(300), ALONE, Schedule(epochs=2), gpu, lambda: None)
    there = classifier_of(trained, MACS, gpu).predict(numbers(1, 300))[1]

    here = open_model(write_model(tmp_path / "m", trained.cpu())).load().predict(numbers(1, 300))[1]

    assert np.abs(there - here).max() < 1e-5


def test_heads_too_wide_for_some_kernels() -> None:
    """Fused attention has an end of what it can: another kernel does it then."""
    wide = replace(ALONE, dim_head=272, flash_attn=True)

    one = fit(told_by_one_feature(300), wide, Schedule(epochs=1), find("cuda"), lambda: None)

    assert np.isfinite(classifier_of(one, MACS, find("cuda")).predict(numbers(1, 300))[1]).all()


def test_commands(tmp_path: Path) -> None:
    """Trained on the GPU and answered on both: the contract tells where, the labels are the same."""
    data, model = write(tmp_path / "rows.jsonl", rows(30)), tmp_path / "m.pt"

    said = flowml("train-transformer", "--train-file", data, "--out-weights", model, "--epochs", "20")
    answers = []
    for device in ("cuda", "cpu"):
        out = tmp_path / f"{device}.jsonl"
        told = flowml(
            "run-transformer", "--weights", model, "--test-file", data, "--outfile", out, "--device", device
        )
        assert f"answering on {device}" in told
        answers.append(out.read_bytes())

    where = find("cuda").to_train
    assert f", on {where}" in said
    assert orjson.loads(contract_path(model).read_bytes())["parameters"]["training"]["device"] == where
    assert answers[0] == answers[1]
