"""What others could have changed is refused before it is used, and what only looks like it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boxlited.errors import StartupError
from boxlited.ownership import EX_NOPERM, check_config_file, check_home, check_socket_directory

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    for name in ("db", "boxes", "quarantine"):
        (path / name).mkdir(mode=0o700)
    (path / "boxlited.lock").touch(mode=0o600)
    return path


def refused(check: object, path: Path) -> str:
    assert callable(check)
    with pytest.raises(StartupError) as caught:
        check(path)
    assert caught.value.exit_code == EX_NOPERM
    return caught.value.message


def foreign_group(path: Path) -> None:
    """A group that is not the owner's own; an ordinary user may have none to choose from."""
    groups = [gid for gid in (NOBODY, *os.getgroups()) if gid != os.geteuid()]
    for gid in groups:
        try:
            os.chown(path, -1, gid)
        except PermissionError:
            continue
        return
    pytest.skip("this user has no group but its own")


def test_a_private_home_is_used_and_one_that_is_not_there_yet_too(home: Path, tmp_path: Path) -> None:
    check_home(home)
    check_home(tmp_path / "none" / "yet")


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o733])
def test_a_home_that_everybody_can_write_to_is_refused(home: Path, mode: int) -> None:
    home.chmod(mode)
    assert "chmod go-w" in refused(check_home, home)


@pytest.mark.parametrize("name", ["db", "boxes", "quarantine", "boxlited.lock"])
def test_what_lies_in_the_home_must_be_private_to_writers_too(home: Path, name: str) -> None:
    (home / name).chmod(0o722)
    foreign_group(home / name)
    assert str(home / name) in refused(check_home, home)


def test_a_group_that_can_write_is_refused_unless_it_is_the_users_own(home: Path) -> None:
    home.chmod(0o770)
    os.chown(home, -1, os.getegid())
    if os.getegid() == os.geteuid():
        check_home(home)
    foreign_group(home)
    home.chmod(0o770)
    assert "others can write" in refused(check_home, home)


def test_a_way_on_which_everybody_can_exchange_the_home_is_refused(tmp_path: Path) -> None:
    way = tmp_path / "way"
    way.mkdir()
    (way / "home").mkdir(mode=0o700)
    way.chmod(0o777)
    assert str(way) in refused(check_home, way / "home")
    way.chmod(0o1777)  # as /tmp: nobody can rename what is not theirs
    check_home(way / "home")


def test_a_readable_home_is_no_reason_to_refuse(home: Path) -> None:
    home.chmod(0o755)
    check_home(home)


@as_root
def test_what_belongs_to_somebody_else_is_refused(home: Path, tmp_path: Path) -> None:
    os.chown(home / "boxes", NOBODY, -1)
    assert f"uid {NOBODY}" in refused(check_home, home)
    config = tmp_path / "boxlited.toml"
    config.touch(mode=0o600)
    check_config_file(config)
    os.chown(config, NOBODY, -1)
    assert "the config" in refused(check_config_file, config)


def test_a_config_that_others_can_write_is_refused_also_behind_a_link(tmp_path: Path) -> None:
    config, link = tmp_path / "real.toml", tmp_path / "boxlited.toml"
    config.touch(mode=0o644)
    link.symlink_to(config)
    check_config_file(link)
    config.chmod(0o646)
    assert "chmod go-w" in refused(check_config_file, link)


def test_a_socket_is_not_put_where_others_could_exchange_it(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o755)
    check_socket_directory(directory)
    directory.chmod(0o757)
    assert "the socket's directory" in refused(check_socket_directory, directory)
    directory.chmod(0o1777)
    check_socket_directory(directory)
