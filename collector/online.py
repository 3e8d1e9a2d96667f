"""`flowml attach` and `flowml collect`, whole: open, attach, give up root, run, end."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from collector import netinfo, privileges
from collector.backlog import Backlog
from collector.config import Settings
from collector.confinement import confine
from collector.errors import (
    FlowmlError,
    OutputError,
    PrivilegeError,
    UsageError,
)
from collector.features import needs_of
from collector.formatter import Formatter
from collector.hooks import attach as attach_hooks
from collector.keptfolder import KeptFolders
from collector.loader import Compiler, Loaded, compile_flags
from collector.messages import log
from collector.pipeline import run
from collector.records import Needs
from collector.reload import Reload
from collector.signals import has_terminal, stop_signals
from collector.sink import Sink, open_sink
from collector.source import Source
from collector.training_data import check_origin, write_origin
from collector.watch import Watch

if TYPE_CHECKING:
    from ml.model import ModelFiles

__all__ = ["attach", "collect", "require_rights"]


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
            files.check(filter=settings.filter, ip=settings.ip, timeouts=settings.timeouts)
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
    needs = Needs.ALL if files is None else _needs(files, settings)
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
        sources = stack.enter_context(_attached(found, settings, needs))
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
                reload = Reload(sink, formatter, read_model, log, watch, needs)
                run(
                    sources,
                    formatter,
                    Backlog(sink, limit_bytes=settings.backlog_bytes, log=log),
                    stop=stop,
                    resolution_s=settings.timeout_resolution / 1000,
                    duration_s=settings.duration,
                    log=log,
                    on_hangup=None if has_terminal() else reload,
                    observers=observers,
                )
        except OutputError as error:
            raise OutputError("; ".join(filter(None, [str(error), sink.rescue()]))) from error
        finally:
            _summary(sources, sink)


def _needs(files: ModelFiles, settings: Settings) -> Needs:
    """What the kernel must keep of a connection for the model's answers, and for what is written of it."""
    needs = Needs.ALL if settings.features else needs_of(files.features)
    shows_tls = settings.format == "record"
    return needs | Needs.HELLO if shows_tls or settings.filter == "tls" else needs


@contextlib.contextmanager
def _attached(
    interfaces: Sequence[netinfo.Interface], settings: Settings, needs: Needs
) -> Iterator[list[Source]]:
    """Attached to all of the interfaces or, when one refuses, to none."""
    flags = compile_flags(
        max_connections=settings.max_connections,
        ring_bytes=settings.ring_bytes,
        tcp_establish_timeout=settings.tcp_establish_timeout,
        tcp_inactivity_timeout=settings.tcp_inactivity_timeout,
        tls_only=settings.filter == "tls",
        ip=settings.ip,
        needs=needs,
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
