"""Settings: defaults, the file, the flags; and what is said of a wrong one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import config
from collector.errors import ConfigError
from collector.folders import configs_folder

ONLINE = configs_folder() / "online.toml"
OFFLINE = configs_folder() / "offline.toml"


def read(text: str) -> dict[str, object]:
    return dict(config.read(io.BytesIO(text.encode()), "my.toml"))


def test_the_shipped_files_are_the_table() -> None:
    """They hold every option of their use at its default (`python -m collector.config USE` writes them)."""
    assert ONLINE.read_text() == config.render("online")
    assert read(ONLINE.read_text()) == {option.name: option.default for option in config.OPTIONS}
    assert OFFLINE.read_text() == config.render("offline")
    offline = {option.name: option.offline for option in config.OPTIONS if option.offline is not None}
    assert read(OFFLINE.read_text()) == offline


def test_both_files_decide_alike_what_a_connection_is() -> None:
    """What is extracted from a capture is what would have been collected from the wire."""
    online, offline = config.resolve({}, {}), config.resolve({}, {}, offline=True)
    for name in ("max_connections", "filter", "timeouts"):
        assert getattr(online, name) == getattr(offline, name)


def test_flags_go_over_the_file_and_the_file_over_the_defaults() -> None:
    """A flag that was not given is None."""
    from_file = config.read(io.BytesIO(b'[capture]\nfilter = "tcp"\nduration = 5\n'), "my.toml")

    settings = config.resolve(from_file, {"duration": 7, "direction": None})

    assert (settings.filter, settings.duration, settings.direction) == ("tcp", 7, "both")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[conntrack\n", "my.toml is not TOML: "),
        ("\xff", "my.toml is not TOML: "),
        ("[contrack]\n", "unknown section [contrack]: did you mean conntrack?"),
        ("[qq]\n", "unknown section [qq]: it may be one of conntrack, capture, output, watch, model"),
        ("conntrack = 3\n", "conntrack = 3 must be a section: write [conntrack]"),
        (
            "[conntrack]\nmax_conections = 3\n",
            "unknown key max_conections in [conntrack]: did you mean max_connections?",
        ),
        ("[conntrack]\nfilter = 3\n", "unknown key filter in [conntrack]: did you mean filter?"),
        ("[conntrack]\nmax_connections = 0\n", "max_connections = 0 must be from 1 to 16777216 connections"),
        ("[conntrack]\nmax_connections = 2.5\n", "must be a whole number of connections"),
        ("[conntrack]\nmax_connections = true\n", "must be a whole number of connections"),
        ('[conntrack]\ntcp_establish_timeout = "5 s"\n', "must be a whole number of milliseconds"),
        ("[conntrack]\ntcp_inactivity_timeout = -1\n", "must be from 1 to 86400000 milliseconds"),
        ("[capture]\nring_bytes = 5000\n", "ring_bytes = 5000 must be a power of two"),
        ('[capture]\nfilter = "tsl"\n', "filter = 'tsl' must be one of tls, tcp: did you mean tls?"),
        ("[output]\nfeatures = 1\n", "features = 1 must be true or false"),
        ("[output]\noutfile = 1\n", "outfile = 1 must be text"),
        ("[watch]\nalert_probability = 1.5\n", "alert_probability = 1.5 must be from 0 to 1"),
        ("[watch]\nalert_probability = nan\n", "alert_probability = nan must be from 0 to 1"),
        ("[watch]\nalert_probability = true\n", "alert_probability = True must be from 0 to 1"),
        ('[output]\noutfile = "a\\u0000"\n', "must be text without NUL characters"),
        ("x = " + 5000 * "[" + 5000 * "]", "nested without end"),
        ("conntrack = " + 200 * "[" + 200 * "]", "conntrack = [[[[[[[[[["),
        ("[conntrack]\nmax_connections = " + 5000 * "9", "my.toml is not TOML: "),
        ("[conntrack]\nmax_connections = " + 4000 * "9", "999... must be from 1 to 16777216 connections"),
        ("[conntrack]\nmax_connections = 0x" + 5000 * "9", "what stands there must be from 1 to"),
        ("conntrack = 0x" + 5000 * "9", "conntrack = what stands there must be a section"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    """The file, the key, the value, and what it may be."""
    with pytest.raises(ConfigError) as error:
        config.read(io.BytesIO(text.encode("latin-1")), "my.toml")

    assert said in str(error.value)
    assert str(error.value).startswith("my.toml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_flag_is_named_as_a_flag() -> None:
    """The message says what was typed."""
    with pytest.raises(ConfigError, match=r"^--max-connections: max_connections = 0 must be from 1 to"):
        config.resolve({}, {"max_connections": 0})


@given(st.binary(max_size=60))
def test_any_bytes_are_settings_or_one_line(data: bytes) -> None:
    """No file makes a traceback."""
    complaint: str | None = None
    try:
        config.read(io.BytesIO(data), "my.toml")
    except ConfigError as error:
        complaint = str(error)
    assert complaint is None or len(complaint.splitlines()) == 1


def test_every_option_says_its_unit_and_meaning() -> None:
    """The file explains itself: above each key a line."""
    lines = ONLINE.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(keys) == len(config.OPTIONS)
    assert all(lines[i - 1].startswith("# ") for i in keys)


def test_the_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder does not matter."""
    monkeypatch.chdir(tmp_path)
    assert configs_folder().joinpath("online.toml").is_file()
