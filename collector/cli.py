"""The command line: wiring only."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from collector import config, transformer_cli
from collector.errors import FlowmlError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="flowml",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _help(name: str) -> str:
    entry = config.option(name)
    unit = f"{entry.unit}: " if entry.unit else ""
    choices = f" [{'|'.join(entry.choices)}]" if entry.choices else ""
    default = f" (default {entry.default})" if entry.default not in ("", False) else ""
    return f"{unit}{entry.meaning}{choices}{default}"


def _flag(name: str, metavar: str) -> typer.models.OptionInfo:
    """A flag of an option's name; not given is None, so that the settings file can tell."""
    info: typer.models.OptionInfo = typer.Option(
        f"--{name.replace('_', '-')}", help=_help(name), metavar=metavar, show_default=False
    )
    return info


Interfaces = Annotated[
    list[str], typer.Argument(help="network interfaces", metavar="IFACE...", show_default=False)
]
Config = Annotated[
    Path | None, typer.Option("--config", help="settings file (TOML)", metavar="FILE", show_default=False)
]
Direction = Annotated[str | None, _flag("direction", "DIRECTION")]
Filter = Annotated[str | None, _flag("filter", "FILTER")]
MaxConnections = Annotated[int | None, _flag("max_connections", "N")]
Duration = Annotated[int | None, _flag("duration", "SECONDS")]
User = Annotated[str | None, _flag("user", "NAME")]
Xdp = Annotated[str | None, _flag("xdp", "MODE")]
Egress = Annotated[str | None, _flag("egress", "HOOK")]
Force = Annotated[
    bool, typer.Option("--force", help="go on with a model that is for other features, filter or timeouts")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="go on even if many rows are unusable")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flowml {version('flowml')}")
        raise typer.Exit


@app.callback()
def flowml(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Recognises which device a TCP connection came from by how it behaved."""


@app.command()
def attach(
    interfaces: Interfaces,
    model: Annotated[str | None, _flag("model", "FILE")] = None,
    labels_file: Annotated[str | None, _flag("labels_file", "FILE")] = None,
    config: Config = None,
    outfile: Annotated[str | None, _flag("outfile", "FILE")] = None,
    format: Annotated[str | None, _flag("format", "FORMAT")] = None,
    features: Annotated[
        bool | None, typer.Option("--features", help=_help("features"), show_default=False)
    ] = None,
    direction: Direction = None,
    filter: Filter = None,
    max_connections: MaxConnections = None,
    duration: Duration = None,
    user: User = None,
    xdp: Xdp = None,
    egress: Egress = None,
    force: Force = False,
) -> None:
    """Predict which device each connection came from, live.

    One line of JSON a connection. Needs root to attach, and gives it up before the model is parsed. Ctrl+C
    ends it: what is in the table is predicted and written first.
    """
    from collector import privileges

    privileges.no_new_privileges()
    from collector import online

    settings = online.read_settings(
        config,
        model=model,
        labels_file=labels_file,
        outfile=outfile,
        format=format,
        features=features,
        direction=direction,
        filter=filter,
        max_connections=max_connections,
        duration=duration,
        user=user,
        xdp=xdp,
        egress=egress,
    )
    online.attach(interfaces, settings, force=force)


@app.command()
def collect(
    interfaces: Interfaces,
    outfile: Annotated[
        str,
        typer.Option("--outfile", help="file to append lines to; -: standard output", metavar="FILE"),
    ],
    config: Config = None,
    direction: Direction = None,
    filter: Filter = None,
    max_connections: MaxConnections = None,
    duration: Duration = None,
    user: User = None,
    xdp: Xdp = None,
    egress: Egress = None,
) -> None:
    """Write the features of each connection, live: training data.

    Beside the file, FILE.meta.json says with which filter and timeouts it was made.
    """
    from collector import privileges

    privileges.no_new_privileges()
    from collector import online

    settings = online.read_settings(
        config,
        outfile=outfile,
        direction=direction,
        filter=filter,
        max_connections=max_connections,
        duration=duration,
        user=user,
        xdp=xdp,
        egress=egress,
    )
    online.collect(interfaces, settings)


@app.command()
def extract(
    captures: Annotated[
        list[str],
        typer.Argument(
            help="pcap and pcapng files, also gzip and zstd of these; -: standard input",
            metavar="CAPTURE...",
            show_default=False,
        ),
    ],
    outfile: Annotated[
        str, typer.Option("--outfile", help="file to write lines to; -: standard output", metavar="FILE")
    ] = "features.jsonl",
    config: Config = None,
    filter: Filter = None,
    max_connections: MaxConnections = None,
    jobs: Annotated[int, typer.Option("--jobs", help="captures to read at a time", metavar="N", min=1)] = 1,
) -> None:
    """Write the features of each connection of captures: the same as `collect` from the wire.

    In the order of their starts, capture by capture. Needs no root. Beside the file, FILE.meta.json says with
    which filter and timeouts it was made.
    """
    from collector import offline, online

    settings = online.read_settings(
        config, offline=True, outfile=outfile, filter=filter, max_connections=max_connections
    )
    raise typer.Exit(offline.extract(captures, settings, jobs=jobs))


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(help="model file that `flowml train` wrote", metavar="MODEL", show_default=False)
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="captures, or rows that `extract` or `collect` wrote; -: standard input",
            metavar="INPUT...",
            show_default=False,
        ),
    ],
    outfile: Annotated[
        str, typer.Option("--outfile", help="file to write lines to; -: standard output", metavar="FILE")
    ] = "predictions.jsonl",
    format: Annotated[str | None, _flag("format", "FORMAT")] = None,
    features: Annotated[
        bool | None, typer.Option("--features", help=_help("features"), show_default=False)
    ] = None,
    labels_file: Annotated[str | None, _flag("labels_file", "FILE")] = None,
    filter: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="of captures: as for attach (default: as the model was trained)",
            metavar="FILTER",
        ),
    ] = None,
    max_connections: MaxConnections = None,
    force: Force = False,
) -> None:
    """Predict which device each connection of captures, or of extracted rows, came from.

    What is a connection is decided as for the rows that the model was trained on. Needs no root.
    """
    from collector import offline, online

    settings = online.read_settings(
        None,
        offline=True,
        model=model,
        outfile=outfile,
        format=format,
        features=features,
        labels_file=labels_file,
        filter=filter,
        max_connections=max_connections,
    )
    settings.check_lines()
    offline.check_names(inputs, settings.outfile)
    from collector import predict as predicting
    from ml.model import open_model  # imports scikit-learn

    files = open_model(Path(model), Path(labels_file) if labels_file else None, force=force)
    given = ("filter",) if filter else ()
    raise typer.Exit(predicting.predict(inputs, files, predicting.settings_of(files, settings, given=given)))


@app.command()
def verify(
    captures: Annotated[list[str], typer.Argument(help="captures", metavar="CAPTURE...", show_default=False)],
    config: Config = None,
    max_connections: MaxConnections = None,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="also replay each over a veth pair (needs tcpreplay)")
    ] = True,
) -> None:
    """Prove that captures and the wire give the same numbers; exit 1 if any differs.

    Runs every packet through the XDP program in the kernel and through the same core on the CPU, and compares
    every counter of every connection bit for bit; then replays each capture to `flowml collect`. Needs root.
    """
    from collector import offline, online
    from collector.verify import verify as run

    settings = online.read_settings(config, offline=True, max_connections=max_connections)
    if not run(captures, replace(offline.limits_of(settings), tls_only=False), live=live, write=typer.echo):
        raise typer.Exit(1)


@app.command()
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
    group_by: Annotated[
        str | None,
        typer.Option(
            help="how rows are held out to score on: capture, time or row (at random, which flatters); "
            "default: by capture where rows name several, else by time, else not at all",
            metavar="WAY",
            show_default=False,
        ),
    ] = None,
    test_size: Annotated[
        float, typer.Option(help="share of each class to hold out, at most 0.5", metavar="SHARE")
    ] = 0.2,
    report: Annotated[
        Path | None,
        typer.Option(help="folder for a report on the rows held out", metavar="DIR", show_default=False),
    ] = None,
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
        trees=trees,
        seed=seed,
        jobs=jobs,
        group_by=group_by,
        test_size=test_size,
        skip_bad=skip_bad,
        report_to=report,
        say=_say,
    )


@app.command()
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
        say=_say,
    )
    typer.echo(json.dumps(found, default=repr, ensure_ascii=False))


transformer_cli.add_to(app)


@app.command()
def check(
    interface: Annotated[str | None, typer.Argument(help="an interface", metavar="[IFACE]")] = None,
) -> None:
    """Say what this machine can do, line by line; exit 1 if attach would fail."""
    from collector.check import check as run

    if not run(interface, typer.echo):
        raise typer.Exit(1)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: no reason to end
        typer.echo(line, err=True)


def _fill_standard_descriptors() -> None:
    """Puts something in the place of a closed standard stream, or the next file opened would be there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def main() -> None:
    """Runs a command. What the user can mend is one line on standard error and an exit code.

    A standard output whose reader has gone ends it with 1: Typer's doing.
    """
    _fill_standard_descriptors()
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except FlowmlError as error:
        _say(f"flowml: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        # The command line's own errors have no common base over Typer's versions, but all have this.
        if not hasattr(error, "format_message"):
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "flowml")
        _say(f"flowml: {error.format_message()} See `{command} --help`.")
        code = UsageError.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
