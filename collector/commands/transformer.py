"""`flowml train-transformer` and `flowml run-transformer`: wiring only. Underscores in flags are fine too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from collector.commands.models import GroupBy, ReportOnHeldOut, TestSize
from collector.commands.options import Force, SkipBad
from collector.messages import log
from ml.hyperparameters import DEFAULTS, meaning

__all__ = ["add_to"]

_EITHER_SPELLING = {"token_normalize_func": lambda name: name.replace("_", "-")}


def _flag(name: str, metavar: str | None = "N") -> Any:
    """A hyperparameter. Not given is None: then the default counts, or what the contract says."""
    default = getattr(DEFAULTS, name)
    dashed = name.replace("_", "-")
    spelling = f"--{dashed}/--no-{dashed}" if isinstance(default, bool) else f"--{dashed}"
    shown = ("on" if default else "off") if isinstance(default, bool) else default
    text = f"{meaning(name)} (default {shown})"
    return typer.Option(spelling, help=text, metavar=metavar, show_default=False)


NumVariates = Annotated[int | None, _flag("num_variates")]
LookbackLen = Annotated[int | None, _flag("lookback_len")]
PredLength = Annotated[int | None, _flag("pred_length")]
Depth = Annotated[int | None, _flag("depth")]
Dim = Annotated[int | None, _flag("dim")]
Heads = Annotated[int | None, _flag("heads")]
DimHead = Annotated[int | None, _flag("dim_head")]
NumTokensPerVariate = Annotated[int | None, _flag("num_tokens_per_variate")]
AttnDropout = Annotated[float | None, _flag("attn_dropout", "SHARE")]
FfMult = Annotated[int | None, _flag("ff_mult")]
FfDropout = Annotated[float | None, _flag("ff_dropout", "SHARE")]
NumMemTokens = Annotated[int | None, _flag("num_mem_tokens")]
InstanceNorm = Annotated[bool | None, _flag("use_reversible_instance_norm", None)]
FlashAttn = Annotated[bool | None, _flag("flash_attn", None)]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda; auto: a GPU where there is one", metavar="DEVICE")
]


def _given(context: typer.Context) -> dict[str, Any]:
    """The hyperparameters on the command line, by name; None for those not given."""
    return {name: context.params[name] for name in DEFAULTS.to_json()}


def train_transformer(
    context: typer.Context,
    train_file: Annotated[
        list[Path],
        typer.Option(help="training data, one JSON object a line; may be repeated", metavar="FILE"),
    ],
    out_weights: Annotated[Path, typer.Option(help="the model to write", metavar="FILE")],
    labels_out: Annotated[
        Path | None,
        typer.Option(help="its labels (default: beside it)", metavar="FILE", show_default=False),
    ] = None,
    lookback_len: LookbackLen = None,
    num_variates: NumVariates = None,
    pred_length: PredLength = None,
    epochs: Annotated[int, typer.Option(help="times that every row is seen", metavar="N")] = 60,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="rows a step (default: 128 on a CPU, up to 4096 on a GPU)", metavar="N", show_default=False
        ),
    ] = None,
    lr: Annotated[float, typer.Option("--lr", help="the highest learning rate", metavar="RATE")] = 3e-3,
    depth: Depth = None,
    dim: Dim = None,
    heads: Heads = None,
    dim_head: DimHead = None,
    num_tokens_per_variate: NumTokensPerVariate = None,
    attn_dropout: AttnDropout = None,
    ff_mult: FfMult = None,
    ff_dropout: FfDropout = None,
    num_mem_tokens: NumMemTokens = None,
    use_reversible_instance_norm: InstanceNorm = None,
    flash_attn: FlashAttn = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same model, on a CPU")] = 0,
    device: Device = "auto",
    test_size: TestSize = 0.2,
    group_by: GroupBy = None,
    report: ReportOnHeldOut = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train an iTransformer on JSON lines and write it with its labels and its contract."""
    from ml import weights

    weights.require_extra()
    from ml.hyperparameters import chosen
    from ml.train_transformer import train
    from ml.transformer_training import Schedule

    train(
        train_file,
        out_weights,
        labels_out=labels_out,
        hyperparameters=chosen(_given(context)),
        schedule=Schedule(epochs, batch_size, lr, seed),
        device=device,
        group_by=group_by,
        test_size=test_size,
        skip_bad=skip_bad,
        report_to=report,
        say=log,
    )


def run_transformer(
    context: typer.Context,
    weights: Annotated[Path, typer.Option(help="the model", metavar="FILE")],
    test_file: Annotated[
        list[Path], typer.Option(help="rows, as for training; may be repeated", metavar="FILE")
    ],
    labels_file: Annotated[
        Path | None,
        typer.Option(help="its labels (default: those beside it)", metavar="FILE", show_default=False),
    ] = None,
    meta: Annotated[
        Path | None,
        typer.Option(help="its contract (default: the one beside it)", metavar="FILE", show_default=False),
    ] = None,
    outfile: Annotated[
        str, typer.Option(help="file to write, one line a row; -: standard output", metavar="FILE")
    ] = "predictions.jsonl",
    format: Annotated[
        str,
        typer.Option(
            help="label: the predicted label; record: the row with label and probability", metavar="FORMAT"
        ),
    ] = "label",
    lookback_len: LookbackLen = None,
    num_variates: NumVariates = None,
    pred_length: PredLength = None,
    depth: Depth = None,
    dim: Dim = None,
    heads: Heads = None,
    dim_head: DimHead = None,
    num_tokens_per_variate: NumTokensPerVariate = None,
    attn_dropout: AttnDropout = None,
    ff_mult: FfMult = None,
    ff_dropout: FfDropout = None,
    num_mem_tokens: NumMemTokens = None,
    use_reversible_instance_norm: InstanceNorm = None,
    flash_attn: FlashAttn = None,
    device: Device = "auto",
    force: Force = False,
    skip_bad: SkipBad = False,
) -> None:
    """Answer JSON lines with an iTransformer, and score the answers.

    The hyperparameters are in the contract beside the model; flags for them are for a model without one.
    """
    from ml.weights import require_extra

    require_extra()
    from collector.run_transformer import run

    run(
        weights,
        test_file,
        outfile,
        labels_file=labels_file,
        meta=meta,
        flags=_given(context),
        format=format,
        place=device,
        force=force,
        skip_bad=skip_bad,
        say=log,
    )


def add_to(app: typer.Typer) -> None:
    """Adds both commands."""
    app.command("train-transformer", context_settings=_EITHER_SPELLING)(train_transformer)
    app.command("run-transformer", context_settings=_EITHER_SPELLING)(run_transformer)
