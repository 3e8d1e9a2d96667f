"""Who may have written a model: the file, its folders and its links; as root, who can be others."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from collector.errors import ModelError
from collector.trust import open_trusted, open_where_root

pytestmark = pytest.mark.kernel  # it is root that can make files of others

GAMES = pwd.getpwnam("games")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One of root's, in a folder of root's, below a folder of root's."""
    folder = tmp_path / "models"
    folder.mkdir(mode=0o755)
    path = folder / "m.joblib"
    path.write_bytes(b"model")
    path.chmod(0o644)
    return path


def refusal(path: Path, *users: int) -> str:
    with pytest.raises(ModelError) as error:
        open_trusted(path, users)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_root_s_own_and_the_user_s_own_are_opened(model: Path) -> None:
    """File and folder, each of either."""
    for file_of, folder_of in ((0, 0), (GAMES.pw_uid, 0), (0, GAMES.pw_uid), (GAMES.pw_uid, GAMES.pw_uid)):
        os.chown(model, file_of, 0)
        os.chown(model.parent, folder_of, 0)
        with open_trusted(model, [GAMES.pw_uid]) as file:
            assert file.read() == b"model"


@pytest.mark.parametrize("above", [0, 1, 2])
def test_somebody_else_s_is_refused(model: Path, above: int) -> None:
    """The file, its folder, or the folder above that."""
    what = [model, *model.parents][above]
    os.chown(what, GAMES.pw_uid, 0)

    mode = f"{what.stat().st_mode & 0o7777:04o}"
    assert refusal(model) == (
        f"{model} is not loaded, others can change it: {what} belongs to games, mode {mode}, "
        "and has to belong to root; have it copied by one of these"
    )
    assert "has to belong to root or daemon;" in refusal(model, pwd.getpwnam("daemon").pw_uid)


@pytest.mark.parametrize("above", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_what_others_can_write_is_refused(model: Path, above: int, mode: int) -> None:
    """By the group or by all; the file, its folder, or the folder above that."""
    what = [model, *model.parents][above]
    what.chmod(mode)
    os.chown(what, 0, GAMES.pw_gid)

    assert refusal(model) == (
        f"{model} is not loaded, others can change it: {what} belongs to root, group games, mode {mode:04o}; "
        f"`chmod go-w {what}`"
    )


def test_a_group_of_one_s_own_lets_nobody_in(model: Path) -> None:
    """Where each user has a group, files are group-writable as a matter of course."""
    model.chmod(0o664)
    os.chown(model, 0, 0)
    open_trusted(model, ()).close()
    user = next((one for one in pwd.getpwall() if one.pw_uid == one.pw_gid != 0), None)
    assert user is not None
    os.chown(model, user.pw_uid, user.pw_gid)
    open_trusted(model, [user.pw_uid]).close()
    os.chown(model, user.pw_uid, GAMES.pw_gid + 1)
    assert "mode 0664" in refusal(model, user.pw_uid)


def test_in_a_sticky_folder_only_the_owner_of_the_file_matters(model: Path) -> None:
    """As in /tmp."""
    model.parent.chmod(0o1777)
    open_trusted(model, ()).close()
    os.chown(model, GAMES.pw_uid, 0)
    assert f"{model} belongs to games" in refusal(model)


def test_links_are_followed_and_looked_at(model: Path, tmp_path: Path) -> None:
    """A link of somebody else's, one through their folder, and one out of a good folder into a bad one."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to(model)
    link, around = tmp_path / "link", tmp_path / "around"
    link.symlink_to("theirs/../models/m.joblib")
    around.symlink_to(theirs)
    for path in (link, theirs / "link", around / "link", around / ".." / "models" / "m.joblib"):
        open_trusted(path, ()).close()

    os.chown(theirs, GAMES.pw_uid, 0)
    for path in (link, theirs / "link", around / "link"):
        assert f"{theirs} belongs to games" in refusal(path)
    os.chown(theirs, 0, 0)
    os.chown(link, GAMES.pw_uid, 0, follow_symlinks=False)
    assert f"{link} belongs to games" in refusal(link)


def test_a_relative_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folders are those of where one is."""
    monkeypatch.chdir(model.parent)
    open_trusted(Path("m.joblib"), ()).close()
    open_trusted(Path("../models/m.joblib"), ()).close()
    os.chown(model.parent.parent, GAMES.pw_uid, 0)
    assert f"{model.parent.parent} belongs to games" in refusal(Path("m.joblib"))


def test_a_pipe_is_looked_at_itself() -> None:
    """As a shell makes one of `<(...)`: it is in no folder."""
    ours, theirs = os.pipe()
    os.write(theirs, b"model")
    os.close(theirs)
    with open_trusted(Path(f"/dev/fd/{ours}"), ()) as file:
        assert file.read() == b"model"
    os.close(ours)


def test_only_root_is_kept_from_it() -> None:
    """Without root a pickle can do what its user can do anyway."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "m.joblib"
        path.write_bytes(b"model")
        os.chown(path, pwd.getpwnam("daemon").pw_uid, 0)
        with pytest.raises(ModelError):
            open_where_root(path)
        os.seteuid(GAMES.pw_uid)
        try:
            open_where_root(path).close()
        finally:
            os.seteuid(0)
