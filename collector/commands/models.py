"""`flowml train` and `evaluate`: models of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collector.commands.options import Force, SkipBad
from collector.messages import log

__all__ = ["GroupBy", "ReportOnHeldOut", "TestSize", "add_to"]

GroupBy = Annotated[
    str | None,
    typer.Option(
        help="how rows are held out to score on: capture, time or row (at random, which flatters); "
        "default: by capture where rows name several, else by time, else not at all",
        metavar="WAY",
        show_default=False,
    ),
]
TestSize = Annotated[
    float, typer.Option(help="share of each class to hold out, at most 0.5", metavar="SHARE")
]
ReportOnHeldOut = Annotated[
    Path | None,
    typer.Option(help="folder for a report on the rows held out", metavar="DIR", show_default=False),
]


def train(
    data: Annotated[
        list[Path],
        typer.Argument(help="training data, one JSON object a line", metavar="TRAIN.jsonl..."),
    ],
    model: Annotated[Path, typer.Argument(help="the model to write", metavar="MODEL.joblib")],
    estimator: Annotated[
        str,
        typer.Option(help="what is trained: forest, extra-trees, boosted or logistic", metavar="NAME"),
    ] = "forest",
    features: Annotated[
        str | None,
        typer.Option(
            help="those to train on, between commas: attach then keeps no counters for others (default: all)",
            metavar="NAME,...",
            show_default=False,
        ),
    ] = None,
    group_by: GroupBy = None,
    test_size: TestSize = 0.2,
    report: ReportOnHeldOut = None,
    trees: Annotated[
        int | None,
        typer.Option(
            help="trees of a forest, or rounds of boosting (default 100)", min=1, show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same model", min=0)] = 0,
    jobs: Annotated[int | None, typer.Option(help="processors to train on (default: all)", min=1)] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a model on JSON lines and write it with its labels and its contract.

    It is scored on rows held out, then fitted on all.
    """
    from ml.train import train as run

    run(
        data,
        model,
        estimator=estimator,
        features=features,
        trees=trees,
        seed=seed,
        jobs=jobs,
        group_by=group_by,
        test_size=test_size,
        skip_bad=skip_bad,
        report_to=report,
        say=log,
    )


def evaluate(
    model: Annotated[Path, typer.Argument(help="the model to judge", metavar="MODEL")],
    data: Annotated[
        list[Path],
        typer.Argument(help="rows that it was not trained on, as for train", metavar="TEST.jsonl..."),
    ],
    report: Annotated[
        Path | None, typer.Option(help="folder for a report", metavar="DIR", show_default=False)
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option(
            help="labels to decode with (default: MODEL.labels.json)", metavar="FILE", show_default=False
        ),
    ] = None,
    force: Force = False,
    skip_bad: SkipBad = False,
) -> None:
    """Score a model on labelled JSON lines; the numbers go to standard output as one JSON object."""
    import json

    from ml.evaluate import evaluate as run

    found = run(
        model,
        data,
        labels_file=labels_file,
        force=force,
        skip_bad=skip_bad,
        report_to=report,
        say=log,
    )
    typer.echo(json.dumps(found, default=repr, ensure_ascii=False))


def add_to(app: typer.Typer) -> None:
    """Puts the commands into the command line."""
    app.command()(train)
    app.command()(evaluate)
