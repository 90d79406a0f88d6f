"""The home's key: made once, private, durable before it is used, and never replaced behind anybody's back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from boxlited.errors import StartupError
from boxlited.supervisor.controlkey import KEY_BYTES, load_or_make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.key"


def test_is_made_once_and_found_again(path: Path) -> None:
    key = load_or_make(path)
    assert len(key) == KEY_BYTES
    assert load_or_make(path) == key
    assert path.read_bytes() == key
    assert [entry.name for entry in path.parent.iterdir()] == ["control.key"]


def test_is_random(tmp_path: Path) -> None:
    keys = {load_or_make(tmp_path / str(number)) for number in range(20)}
    assert len(keys) == 20


def test_nobody_else_can_read_it_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_make(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_is_durable_before_it_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []

    def fsync(fd: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{fd}")).name, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    load_or_make(path)
    assert synced == [(".control.key.new", False), (path.parent.name, True)]


def test_what_a_crash_left_is_no_obstacle(path: Path) -> None:
    path.with_name(".control.key.new").write_bytes(b"half")
    assert load_or_make(path) == path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"x" * (KEY_BYTES - 1), b"x" * (KEY_BYTES + 1), b"x" * 10_000])
def test_a_wrong_size_is_refused_and_the_file_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StartupError, match=r"control\.key is not a key of 32 bytes.*put the right one back"):
        load_or_make(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_key_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    load_or_make(path)
    path.chmod(mode)
    with pytest.raises(StartupError, match="chmod 600"):
        load_or_make(path)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_key_of_another_user_is_refused(path: Path) -> None:
    load_or_make(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(StartupError, match="chown"):
        load_or_make(path)


def test_what_is_no_file_is_refused_and_not_waited_for(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartupError, match="not a key"):
        load_or_make(path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(StartupError, match="not a key"):
        load_or_make(path)
    path.unlink()
    path.symlink_to("/dev/urandom")
    with pytest.raises(StartupError, match="cannot be used"):
        load_or_make(path)


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file or directory"):
        load_or_make(tmp_path / "missing" / "control.key")
