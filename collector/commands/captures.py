"""`flowml extract`, `predict` and `verify`: what has to do with captures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collector.commands.options import (
    Config,
    Features,
    Filter,
    Force,
    Format,
    Ip,
    LabelsFile,
    MaxConnections,
)

__all__ = ["add_to"]


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
    ip: Ip = None,
    max_connections: MaxConnections = None,
    jobs: Annotated[int, typer.Option("--jobs", help="captures to read at a time", metavar="N", min=1)] = 1,
) -> None:
    """Write the features of each connection of captures: the same as `collect` from the wire.

    In the order of their starts, capture by capture. Needs no root. Beside the file, FILE.meta.json says with
    which filter, ip and timeouts it was made.
    """
    from collector import offline
    from collector.settings_file import read_settings

    settings = read_settings(
        config, offline=True, outfile=outfile, filter=filter, ip=ip, max_connections=max_connections
    )
    raise typer.Exit(offline.extract(captures, settings, jobs=jobs))


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
    format: Format = None,
    features: Features = None,
    labels_file: LabelsFile = None,
    filter: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="of captures: as for attach (default: as the model was trained)",
            metavar="FILTER",
        ),
    ] = None,
    ip: Annotated[
        str | None,
        typer.Option(
            "--ip", help="of captures: as for attach (default: as the model was trained)", metavar="VERSION"
        ),
    ] = None,
    max_connections: MaxConnections = None,
    force: Force = False,
) -> None:
    """Predict which device each connection of captures, or of extracted rows, came from.

    What is a connection is decided as for the rows that the model was trained on. Needs no root.
    """
    from collector import offline
    from collector.settings_file import read_settings

    settings = read_settings(
        None,
        offline=True,
        model=model,
        outfile=outfile,
        format=format,
        features=features,
        labels_file=labels_file,
        filter=filter,
        ip=ip,
        max_connections=max_connections,
    )
    settings.check_lines()
    offline.check_names(inputs, settings.outfile)
    from collector import predict as predicting
    from ml.model import open_model  # imports scikit-learn

    files = open_model(Path(model), Path(labels_file) if labels_file else None, force=force)
    given = [name for name, value in (("filter", filter), ("ip", ip)) if value]
    raise typer.Exit(predicting.predict(inputs, files, predicting.settings_of(files, settings, given=given)))


def verify(
    captures: Annotated[list[str], typer.Argument(help="captures", metavar="CAPTURE...", show_default=False)],
    config: Config = None,
    ip: Ip = None,
    max_connections: MaxConnections = None,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="also replay each over a veth pair (needs tcpreplay)")
    ] = True,
) -> None:
    """Prove that captures and the wire give the same numbers; exit 1 if any differs.

    Runs every packet through the XDP program in the kernel and through the same core on the CPU, and compares
    every counter of every connection bit for bit; then replays each capture to `flowml collect`. Needs root.
    """
    from collector import offline
    from collector.settings_file import read_settings
    from collector.verify import verify as run

    settings = read_settings(config, offline=True, ip=ip, max_connections=max_connections)
    if not run(captures, offline.limits_of(settings)._replace(tls_only=False), live=live, write=typer.echo):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Puts the commands into the command line."""
    app.command()(extract)
    app.command()(predict)
    app.command()(verify)
