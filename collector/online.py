"""`flowml attach` and `flowml collect`, whole: open, attach, give up root, run, end."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from collector import config, netinfo, privileges
from collector.backlog import Backlog
from collector.config import Settings
from collector.confinement import confine
from collector.errors import (
    ConfigError,
    FlowmlError,
    InputError,
    OutputError,
    PrivilegeError,
    UsageError,
)
from collector.hooks import attach as attach_hooks
from collector.keptfolder import KeptFolders
from collector.loader import Compiler, Loaded, compile_flags
from collector.pipeline import Formatter, Source, run
from collector.printable import printable
from collector.reload import Reload
from collector.signals import has_terminal, stop_signals
from collector.sink import STANDARD_OUTPUT, Sink, open_sink
from collector.watch import Watch
from ml.atomic import replace_all
from ml.origin import origin_path

if TYPE_CHECKING:
    from ml.model import ModelFiles

__all__ = ["attach", "collect", "read_settings", "require_rights"]


def log(line: str) -> None:
    """One line on standard error; none where it is closed, or its reader has gone: the run goes on."""
    if sys.stderr is None:  # print would write it to standard output, among the JSON
        return
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


def open_as_caller(path: Path) -> BinaryIO:
    """Opens a file for reading with the rights of who typed the command."""
    with privileges.as_caller():
        return path.open("rb")


def read_settings(config_path: Path | None, *, offline: bool = False, **flags: object) -> Settings:
    """Defaults, the settings file if one is named, and the flags over both."""
    if config_path is None:
        return config.resolve({}, flags, offline=offline)
    try:
        file = open_as_caller(config_path)
    except OSError as error:
        raise ConfigError(
            f"{config_path} cannot be read ({error.strerror}): name another --config"
        ) from error
    with file:
        return config.resolve(config.read(file, str(config_path)), flags, offline=offline)


def attach(interfaces: Sequence[str], settings: Settings, *, force: bool = False) -> None:
    """Predicts the label of every connection on the interfaces until stopped.

    With `force` also by a model whose contract says that it is for another kind of capture.
    """
    from ml.model import open_model  # imports scikit-learn

    if not settings.model:
        raise UsageError("which model? pass --model, or set `model` in the settings file")
    settings.check_lines()
    labels = Path(settings.labels_file) if settings.labels_file else None
    require_rights()
    users = {privileges.caller().uid, privileges.runner(settings.user).uid}
    with contextlib.closing(KeptFolders(users)) as folders:

        def opener(path: Path) -> BinaryIO:
            with privileges.as_caller():
                return folders.open(path)

        def read_model() -> ModelFiles:
            files = open_model(Path(settings.model), labels, opener, force=force)
            files.check(filter=settings.filter, timeouts=settings.timeouts)
            return files

        _online(interfaces, settings, read_model)


def collect(interfaces: Sequence[str], settings: Settings) -> None:
    """Writes the features of every connection on the interfaces until stopped."""
    require_rights()
    _online(interfaces, settings, None)


def _online(
    interfaces: Sequence[str], settings: Settings, read_model: Callable[[], ModelFiles] | None
) -> None:
    files = read_model() if read_model else None
    if len(set(interfaces)) < len(interfaces):
        raise UsageError(f"an interface is named twice: {' '.join(interfaces)}")
    found = [netinfo.find(name) for name in interfaces]
    runner = privileges.runner(settings.user)
    with contextlib.ExitStack() as stack:
        sink = open_sink(settings.outfile)
        stack.callback(sink.close)
        if_refused = stack.enter_context(contextlib.ExitStack())
        if_refused.callback(sink.discard)
        if files is None:
            check_origin(settings)
        watch = Watch(settings, files)
        for module in files.modules() if files else ():
            # What the unprivileged user may not be able to read must be in memory by then.
            importlib.import_module(module)
        stop = stack.enter_context(stop_signals())
        sources = stack.enter_context(_attached(found, settings))
        if files is None:
            write_origin(settings)
        if_refused.pop_all()
        kept = privileges.drop(runner, sources[0].table.probe_fd)
        confined = ", confined by seccomp" if confine() else ""
        log(f"running as {runner.name}" + (f", with {', '.join(kept)} kept" if kept else "") + confined)
        classifier = files.load() if files else None
        for warning in files.warnings if files else ():
            log(f"warning: {warning}")
        labels = classifier.labels if classifier else ()
        try:
            with watch.over(sources, sink, labels, log) as observers:
                formatter = Formatter(
                    classifier,
                    as_record=files is None or settings.format == "record",
                    with_features=files is None or settings.features,
                    observers=observers,
                )
                run(
                    sources,
                    formatter,
                    Backlog(sink, limit_bytes=settings.backlog_bytes, log=log),
                    stop=stop,
                    resolution_s=settings.timeout_resolution / 1000,
                    duration_s=settings.duration,
                    log=log,
                    on_hangup=None if has_terminal() else Reload(sink, formatter, read_model, log, watch),
                    observers=observers,
                )
        except OutputError as error:
            raise OutputError("; ".join(filter(None, [str(error), sink.rescue()]))) from error
        finally:
            _summary(sources, sink)


@contextlib.contextmanager
def _attached(interfaces: Sequence[netinfo.Interface], settings: Settings) -> Iterator[list[Source]]:
    """Attached to all of the interfaces or, when one refuses, to none."""
    flags = compile_flags(
        max_connections=settings.max_connections,
        ring_bytes=settings.ring_bytes,
        tcp_establish_timeout=settings.tcp_establish_timeout,
        tcp_inactivity_timeout=settings.tcp_inactivity_timeout,
        tls_only=settings.filter == "tls",
        ip=settings.ip,
    )
    with contextlib.ExitStack() as stack:
        with Compiler() as compiler:
            loaded = [compiler.load(flags, max_connections=settings.max_connections) for _ in interfaces]
        sources = []
        for interface, programs in zip(interfaces, loaded, strict=True):
            stack.callback(programs.table.close)
            sources.append(_attach_one(interface, programs, settings))
            stack.callback(sources[-1].hooks.detach)
        yield sources


def _attach_one(interface: netinfo.Interface, programs: Loaded, settings: Settings) -> Source:
    hooks = attach_hooks(
        interface, programs, direction=settings.direction, xdp=settings.xdp, egress=settings.egress
    )
    programs.close_programs()  # the links hold them now
    egress = f", egress by {hooks.egress_mode}" if hooks.egress_mode else ""
    log(f"{interface.name}: attached, {hooks.ingress}{egress}")
    for note in hooks.notes:
        log(f"{interface.name}: {note}")
    if on := hooks.distorting():
        off = " ".join(f"{name} off" for name in on)
        log(
            f"{interface.name}: warning: {' and '.join(on)} merges segments before they are counted: "
            f"`ethtool -K {interface.name} {off}`"
        )
    return Source(hooks, programs.table)


def require_rights() -> None:
    """Before anything is opened or compiled: attaching will need them."""
    if os.geteuid() == 0:
        return
    missing = privileges.missing_capabilities()
    if missing:
        raise PrivilegeError(f"attaching needs root, or {' '.join(missing)}: run it with sudo")


def _origin(settings: Settings) -> dict[str, object]:
    return {"filter": settings.filter, **settings.timeouts}


def check_origin(settings: Settings) -> None:
    """Makes sure that what is in the training data already was made as these settings make it.

    Raises
    ------
    InputError
        It was made with other settings, or nothing beside the file says with which.
    """
    data, path = Path(settings.outfile), origin_path(Path(settings.outfile))
    try:
        with privileges.as_caller():
            if settings.outfile == STANDARD_OUTPUT or not data.is_file() or not data.stat().st_size:
                return
            before = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{data} holds lines already, and no {path.name} beside it says how they were made: "
            "name another --outfile"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be understood ({error}): name another --outfile") from error
    if before != _origin(settings):
        raise InputError(
            f"{data} holds connections collected with other settings ({path}): name another --outfile"
        )


def write_origin(settings: Settings) -> None:
    """Writes down beside training data how it is made, for the model's contract: before its first line."""
    data = Path(settings.outfile)
    with privileges.as_caller():
        if settings.outfile != STANDARD_OUTPUT and data.is_file() and not data.stat().st_size:
            replace_all([(origin_path(data), json.dumps(_origin(settings)).encode() + b"\n")])


def _summary(sources: Sequence[Source], sink: Sink) -> None:
    for source in sources:
        try:
            counters = source.table.counters()
        except (OSError, FlowmlError) as error:
            log(f"{source.name}: the counters cannot be read ({error})")
            continue
        shown = ", ".join(f"{name} {value}" for name, value in counters.items() if value)
        log(f"{source.name}: {shown or 'no packets'}")
    log(f"Done. Processed {sink.written} connections")
