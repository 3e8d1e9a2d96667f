"""Whether a file can only have been written by those whose word is good.

A model is a program. Who can write it, or put another in its place, has it run as whoever loads it. So the
file, every folder on the way to it and every symbolic link there must belong to root or to the user, and
be writable by nobody else; in a folder with the sticky bit, like /tmp, others can write, but not replace.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from collector.errors import ModelError

__all__ = ["check_trusted", "open_trusted", "open_where_root"]

_LINKS_MAX = 40  # path_resolution(7)


def open_where_root(path: Path) -> BinaryIO:
    """Opens a file for reading; where this process is root, only one that nobody but root can write.

    Raises
    ------
    ModelError
        As `open_trusted`.
    """
    return open_trusted(path, {0}) if os.geteuid() == 0 else path.open("rb")


def open_trusted(path: Path, users: Collection[int]) -> BinaryIO:
    """Opens a file for reading, if it is theirs alone.

    Parameters
    ----------
    users
        The ids of those whose word is good; root's is in any case.

    Raises
    ------
    OSError
        It cannot be opened.
    ModelError
        Somebody else can write the file, or put another in its place; the text names what, whose it is, its
        mode, and what to do.
    """
    file = path.open("rb")
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):  # a pipe: it has an owner, but is in no folder
            _check(path, path, found, users)
        else:
            real = _walk(path, users)
            there = os.lstat(real)
            if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino):
                raise ModelError(f"{path} was replaced while it was opened: see who does that, or try again")
            _check(path, real, found, users)
    except BaseException:
        file.close()
        raise
    return file


def check_trusted(path: Path, found: os.stat_result, users: Collection[int]) -> None:
    """Of a file or folder that is open: whether it is theirs alone, wherever it lies. Raises ModelError."""
    _check(path, path, found, users)


def _walk(path: Path, users: Collection[int]) -> Path:
    """Checks every folder and every link on the way; answers the path without links."""
    at = Path("/")
    _check(path, at, at.lstat(), users)
    ahead = list(reversed((Path.cwd() / path).parts[1:]))
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            at = at.parent  # there are no links in it
            continue
        found = (at / name).lstat()
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _LINKS_MAX:  # it was opened, so they change while they are followed
                raise ModelError(f"{path}: the links on the way to it have no end: name the file itself")
            _check_owner(path, at / name, found, users)
            target = (at / name).readlink()
            ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            at = Path("/") if target.is_absolute() else at
            continue
        at = at / name
        if ahead:
            _check(path, at, found, users)
    return at


def _check(path: Path, what: Path, found: os.stat_result, users: Collection[int]) -> None:
    _check_owner(path, what, found, users)
    others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private(found))
    if others and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        raise ModelError(
            f"{path} is not loaded, others can change it: {what} belongs to {_name(found.st_uid)}, group "
            f"{_group(found.st_gid)}, mode {stat.S_IMODE(found.st_mode):04o}; `chmod go-w {what}`"
        )


def _check_owner(path: Path, what: Path, found: os.stat_result, users: Collection[int]) -> None:
    if found.st_uid != 0 and found.st_uid not in users:
        good = " or ".join(dict.fromkeys(["root", *(_name(uid) for uid in sorted(users))]))
        raise ModelError(
            f"{path} is not loaded, others can change it: {what} belongs to {_name(found.st_uid)}, mode "
            f"{stat.S_IMODE(found.st_mode):04o}, and has to belong to {good}; have it copied by one of these"
        )


def _is_private(found: os.stat_result) -> bool:
    """Whether the group is the owner's own, as on systems where each user has one: it lets nobody in."""
    try:
        owner, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    own = owner.pw_gid == found.st_gid and group.gr_name == owner.pw_name
    return own and set(group.gr_mem) <= {owner.pw_name}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
