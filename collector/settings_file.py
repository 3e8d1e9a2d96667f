"""The settings of a run: defaults, over them a file, over that the flags."""

from __future__ import annotations

from pathlib import Path

from collector import config, privileges
from collector.config import Settings
from collector.errors import ConfigError

__all__ = ["read_settings"]


def read_settings(config_path: Path | None, *, offline: bool = False, **flags: object) -> Settings:
    """Defaults, the settings file if one is named, and the flags over both.

    The file is opened with the rights of who typed the command.
    """
    if config_path is None:
        return config.resolve({}, flags, offline=offline)
    try:
        with privileges.as_caller():
            file = config_path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"{config_path} cannot be read ({error.strerror}): name another --config"
        ) from error
    with file:
        return config.resolve(config.read(file, str(config_path)), flags, offline=offline)
