"""`flowml attach`, `collect` and `check`: what has to do with interfaces."""

from __future__ import annotations

from typing import Annotated

import typer

from collector.commands.options import (
    AlertMismatch,
    AlertProbability,
    Config,
    Direction,
    Duration,
    Egress,
    Features,
    Filter,
    Force,
    Format,
    Interfaces,
    Ip,
    LabelsFile,
    MaxConnections,
    Metrics,
    Model,
    Outfile,
    Quiet,
    StatusInterval,
    User,
    Xdp,
    interface_names,
)

__all__ = ["add_to"]


def attach(
    interfaces: Interfaces,
    model: Model = None,
    labels_file: LabelsFile = None,
    config: Config = None,
    outfile: Outfile = None,
    format: Format = None,
    features: Features = None,
    direction: Direction = None,
    filter: Filter = None,
    ip: Ip = None,
    max_connections: MaxConnections = None,
    duration: Duration = None,
    user: User = None,
    xdp: Xdp = None,
    egress: Egress = None,
    alert_mismatch: AlertMismatch = None,
    alert_probability: AlertProbability = None,
    metrics: Metrics = None,
    status_interval: StatusInterval = None,
    quiet: Quiet = None,
    force: Force = False,
) -> None:
    """Predict which device each connection came from, live.

    One line of JSON a connection. Needs root to attach, and gives it up before the model is parsed. Ctrl+C
    ends it: what is in the table is predicted and written first.
    """
    from collector import privileges

    privileges.no_new_privileges()
    from collector import online
    from collector.settings_file import read_settings

    settings = read_settings(
        config,
        model=model,
        labels_file=labels_file,
        outfile=outfile,
        format=format,
        features=features,
        direction=direction,
        filter=filter,
        ip=ip,
        max_connections=max_connections,
        duration=duration,
        user=user,
        xdp=xdp,
        egress=egress,
        alert_mismatch=alert_mismatch,
        alert_probability=alert_probability,
        metrics=metrics,
        status_interval=status_interval,
        quiet=quiet,
    )
    online.attach(interfaces, settings, force=force)


def collect(
    interfaces: Interfaces,
    outfile: Annotated[
        str,
        typer.Option("--outfile", help="file to append lines to; -: standard output", metavar="FILE"),
    ],
    config: Config = None,
    direction: Direction = None,
    filter: Filter = None,
    ip: Ip = None,
    max_connections: MaxConnections = None,
    duration: Duration = None,
    user: User = None,
    xdp: Xdp = None,
    egress: Egress = None,
    metrics: Metrics = None,
    status_interval: StatusInterval = None,
    quiet: Quiet = None,
) -> None:
    """Write the features of each connection, live: training data.

    Beside the file, FILE.meta.json says with which filter, ip and timeouts it was made.
    """
    from collector import privileges

    privileges.no_new_privileges()
    from collector import online
    from collector.settings_file import read_settings

    settings = read_settings(
        config,
        outfile=outfile,
        direction=direction,
        filter=filter,
        ip=ip,
        max_connections=max_connections,
        duration=duration,
        user=user,
        xdp=xdp,
        egress=egress,
        metrics=metrics,
        status_interval=status_interval,
        quiet=quiet,
    )
    online.collect(interfaces, settings)


def check(
    interface: Annotated[
        str | None,
        typer.Argument(help="an interface", metavar="[IFACE]", autocompletion=interface_names),
    ] = None,
) -> None:
    """Say what this machine can do, line by line; exit 1 if attach would fail."""
    from collector.check import check as run

    if not run(interface, typer.echo):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Puts the commands into the command line."""
    app.command()(attach)
    app.command()(collect)
    app.command()(check)
