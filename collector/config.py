"""Every option: one table from which defaults, checks, flags' help and configs/*.toml are made.

python -m collector.config online > configs/online.toml
python -m collector.config offline > configs/offline.toml
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from collector.errors import ConfigError, UsageError

__all__ = ["DAY_MS", "OPTIONS", "Option", "Settings", "option", "read", "render", "resolve"]

Value = str | int | float | bool


class Option(NamedTuple):
    """One setting: where it stands in the file, what it may be, what it means."""

    section: str
    name: str
    default: Value
    unit: str
    meaning: str
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = 0
    power_of_two: bool = False
    offline: Value | None = None
    """The default of `flowml extract`; None: it does not matter there."""

    def check(self, value: object, where: str) -> Value:
        """The value, if it may be this option's.

        Raises
        ------
        ConfigError
            Naming `where` it stands, the value, and what it may be.
        """
        wanted = self._refusal(value)
        if wanted:
            raise ConfigError(f"{where}: {self.name} = {_shown(value)} must be {wanted}")
        return value  # type: ignore[return-value]

    def _refusal(self, value: object) -> str:
        if isinstance(self.default, bool):
            return "" if isinstance(value, bool) else "true or false"
        if isinstance(self.default, int):
            if not isinstance(value, int) or isinstance(value, bool):
                return f"a whole number{f' of {self.unit}' if self.unit else ''}"
            if not self.least <= value <= self.most:
                return f"from {self.least} to {self.most}{f' {self.unit}' if self.unit else ''}"
            return "a power of two" if self.power_of_two and value & (value - 1) else ""
        if isinstance(self.default, float):
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
            return "" if fits and self.least <= value <= self.most else f"from {self.least} to {self.most}"  # type: ignore[operator]
        if not isinstance(value, str) or "\0" in value:
            return "text" if not isinstance(value, str) else "text without NUL characters"
        if self.choices and value not in self.choices:
            return "one of " + ", ".join(self.choices) + _nearest(value, self.choices)
        return ""


DAY_MS = 24 * 3600 * 1000

_SHOWN_MAX = 60

OPTIONS: tuple[Option, ...] = (
    Option(
        "conntrack",
        "max_connections",
        100_000,
        "connections",
        "slots in each flow table; a connection that finds none free is refused and counted (table_full)",
        least=1,
        most=16_777_216,
        offline=100_000,
    ),
    Option(
        "conntrack",
        "timeout_resolution",
        100,
        "milliseconds",
        "how often the table is swept for connections that timed out",
        least=1,
        most=60_000,
    ),
    Option(
        "conntrack",
        "tcp_inactivity_timeout",
        300_000,
        "milliseconds",
        "silence of both sides that ends a connection",
        least=1,
        most=DAY_MS,
        offline=300_000,
    ),
    Option(
        "conntrack",
        "tcp_establish_timeout",
        5_000,
        "milliseconds",
        "the same while only the first segment has been seen",
        least=1,
        most=DAY_MS,
        offline=5_000,
    ),
    Option(
        "capture",
        "direction",
        "both",
        "",
        "both: what comes in and what goes out; ingress: a mirror port, where both come in",
        choices=("both", "ingress"),
    ),
    Option(
        "capture",
        "filter",
        "tls",
        "",
        "tls: connections that begin with a TLS ClientHello; tcp: all",
        choices=("tls", "tcp"),
        offline="tls",
    ),
    Option(
        "capture",
        "ip",
        "4",
        "",
        "versions of IP that are looked at; 6 and both make the table's keys longer",
        choices=("4", "6", "both"),
        offline="4",
    ),
    Option(
        "capture",
        "xdp",
        "auto",
        "",
        "hook for what comes in: native or generic XDP, or tc, to which merged segments are told; "
        "auto: native, else tc",
        choices=("native", "generic", "tc", "auto"),
    ),
    Option(
        "capture",
        "egress",
        "auto",
        "",
        "kind of the TC hooks; auto: tcx, else clsact",
        choices=("tcx", "clsact", "auto"),
    ),
    Option(
        "capture",
        "ring_bytes",
        4 * 1024 * 1024,
        "bytes",
        "ring of finished connections between kernel and collector; 200 bytes each",
        least=4096,
        most=1 << 30,
        power_of_two=True,
    ),
    Option(
        "capture",
        "duration",
        0,
        "seconds",
        "end after this long; 0: go on until stopped",
        least=0,
        most=366 * 24 * 3600,
    ),
    Option(
        "capture",
        "user",
        "",
        "",
        "go on as this user once attached; empty: the user behind sudo, else nobody",
    ),
    Option("output", "outfile", "predictions.jsonl", "", "file to append lines to; -: standard output"),
    Option(
        "output",
        "format",
        "label",
        "",
        "label: the predicted label alone; record: an object with the connection and the label",
        choices=("label", "record"),
    ),
    Option("output", "features", False, "", "true: records hold the 17 features too"),
    Option(
        "output",
        "backlog_bytes",
        16 * 1024 * 1024,
        "bytes",
        "lines kept while the output takes none; beyond that, finished connections wait in their table",
        least=4096,
        most=1 << 34,
    ),
    Option(
        "watch",
        "metrics",
        "",
        "",
        "serve metrics for Prometheus at ADDR:PORT, or at PORT of 127.0.0.1; empty: do not",
    ),
    Option(
        "watch",
        "status_interval",
        60,
        "seconds",
        "a line on how it goes every so often, where standard error is no terminal; 0: none",
        least=0,
        most=24 * 3600,
    ),
    Option(
        "watch",
        "quiet",
        False,
        "",
        "true: neither such lines nor, on a terminal, the live view",
    ),
    Option(
        "watch",
        "alert_mismatch",
        False,
        "",
        "true: tell of connections whose source MAC is a label, but not the one predicted",
    ),
    Option(
        "watch",
        "alert_probability",
        0.9,
        "",
        "of the predicted label at the least, for alert_mismatch",
        least=0,
        most=1,
    ),
    Option("model", "model", "", "", "model file that `flowml train` wrote"),
    Option("model", "labels_file", "", "", "labels to decode with; empty: MODEL.labels.json"),
)

_BY_NAME = {entry.name: entry for entry in OPTIONS}
_SECTIONS = tuple(dict.fromkeys(entry.section for entry in OPTIONS))


def option(name: str) -> Option:
    """The option of that name."""
    return _BY_NAME[name]


class Settings(NamedTuple):
    """The settings of one run, checked. Field names and units are those of `OPTIONS`."""

    max_connections: int
    timeout_resolution: int
    tcp_inactivity_timeout: int
    tcp_establish_timeout: int
    direction: str
    filter: str
    ip: str
    xdp: str
    egress: str
    ring_bytes: int
    duration: int
    user: str
    outfile: str
    format: str
    features: bool
    backlog_bytes: int
    metrics: str
    status_interval: int
    quiet: bool
    alert_mismatch: bool
    alert_probability: float
    model: str
    labels_file: str

    def check_lines(self) -> None:
        """Refuses what the lines of predictions have no room for.

        Raises
        ------
        UsageError
            The features are wanted beside a bare label.
        """
        if self.features and self.format == "label":
            raise UsageError(
                "a bare label has no room for features: add --format record, or leave out --features"
            )

    @property
    def timeouts(self) -> dict[str, int]:
        """What decides when a connection ends, milliseconds."""
        return {
            "tcp_establish_timeout": self.tcp_establish_timeout,
            "tcp_inactivity_timeout": self.tcp_inactivity_timeout,
        }


def _shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # hexadecimal digits in thousands; arrays nested deep
        return "what stands there"
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."


def _nearest(word: str, valid: tuple[str, ...]) -> str:
    import difflib  # not for those who spell it right

    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.4)
    return f": did you mean {near[0]}?" if near else ""


def read(file: BinaryIO, name: str) -> dict[str, Value]:
    """The options that a TOML file sets.

    Raises
    ------
    ConfigError
        Broken TOML, an unknown section or key (with the nearest valid name), a value that may not be.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document = tomllib.load(file)
    except ValueError as error:  # broken TOML, broken UTF-8, or a number of thousands of digits
        raise ConfigError(f"{name} is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is not a settings file: its values are nested without end") from error
    found: dict[str, Value] = {}
    for section, content in document.items():
        if section not in _SECTIONS:
            hint = _nearest(section, _SECTIONS) or f": it may be one of {', '.join(_SECTIONS)}"
            raise ConfigError(f"{name}: unknown section [{section}]{hint}")
        if not isinstance(content, dict):
            raise ConfigError(f"{name}: {section} = {_shown(content)} must be a section: write [{section}]")
        valid = tuple(entry.name for entry in OPTIONS if entry.section == section)
        for key, value in content.items():
            if key not in valid:
                hint = _nearest(key, valid) or _nearest(key, tuple(_BY_NAME))
                hint = hint or f": it may be one of {', '.join(valid)}"
                raise ConfigError(f"{name}: unknown key {key} in [{section}]{hint}")
            found[key] = _BY_NAME[key].check(value, name)
    return found


def resolve(
    from_file: Mapping[str, Value], from_flags: Mapping[str, Any], *, offline: bool = False
) -> Settings:
    """Defaults, over them the file, over that the flags; a flag that is None was not given."""
    values: dict[str, Any] = {entry.name: entry.default for entry in OPTIONS}
    if offline:
        values |= {entry.name: entry.offline for entry in OPTIONS if entry.offline is not None}
    values |= from_file
    for name, value in from_flags.items():
        if value is not None:
            values[name] = _BY_NAME[name].check(value, f"--{name.replace('_', '-')}")
    return Settings(**values)


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


_INTRODUCTION = {
    "online": """\
# Every option of `flowml attach` and `flowml collect`, at its default. Pass a file like this with
# --config; a flag of the same name goes over it.""",
    "offline": """\
# Every option of `flowml extract`, at its default. Pass a file like this with --config; a flag of
# the same name goes over it. A file for attach and collect will do too: of the rest nothing is taken.""",
}


def render(use: str) -> str:
    """The settings file of one use, online or offline, with every option at its default."""
    defaults = {
        entry: entry.default if use == "online" else entry.offline
        for entry in OPTIONS
        if use == "online" or entry.offline is not None
    }
    lines = [_INTRODUCTION[use]]
    for section in dict.fromkeys(entry.section for entry in defaults):
        lines += ["", f"[{section}]"]
        for entry, default in defaults.items():
            if entry.section == section and default is not None:
                unit = f"{entry.unit}: " if entry.unit else ""
                lines += [f"# {unit}{entry.meaning}", f"{entry.name} = {_toml(default)}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(sys.argv[1]))
