"""What leaves boxes/: renamed away at once, deleted later, kept for its grace period, and never through a link."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from boxlited.errors import ResourceExhausted
from boxlited.supervisor import directories as module
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.layout import HomeLayout
from tests.unit.limits import no_free_descriptor
from tests.unit.test_directories import ID, OTHER, config, directories, home

__all__ = ["directories", "home"]  # the fixtures
DAY = 86400.0


def test_a_box_is_renamed_away_at_once_and_deleted_later(home: HomeLayout, directories: Directories) -> None:
    directories.create_all([config()])
    directories.remove(ID, "1")
    assert directories.names() == []
    assert os.listdir(home.quarantine_dir) == [f"removed-{ID}-1"]
    directories.remove(ID, "2")  # again, after a kill
    directories.delete_removed()
    assert os.listdir(home.quarantine_dir) == []


def test_a_box_is_removed_also_when_quarantine_was_taken_away(home: HomeLayout, directories: Directories) -> None:
    directories.create_all([config(), config(OTHER)])
    home.quarantine_dir.rmdir()
    directories.remove(ID, "1")
    assert directories.names() == [OTHER]
    directories.delete_removed()
    home.quarantine_dir.rmdir()
    assert directories.quarantine(OTHER).is_dir()
    assert directories.names() == []


def test_a_link_in_the_place_of_a_box_is_removed_and_not_what_it_leads_to(
    home: HomeLayout, directories: Directories, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    home.box(ID).directory.symlink_to(tmp_path / "precious")
    directories.remove(ID, "1")
    directories.delete_removed()
    assert os.listdir(home.quarantine_dir) == []
    assert (tmp_path / "precious/file").exists()


def test_deletion_without_descriptors_is_taken_up_again(home: HomeLayout, directories: Directories) -> None:
    directories.create_all([config()])
    directories.remove(ID, "1")
    entries = list(module._entries(home.quarantine_dir))
    with no_free_descriptor():
        assert not directories._delete(entries[0])
    directories.delete_removed()
    assert os.listdir(home.quarantine_dir) == []


@pytest.mark.parametrize("name", ["x" * 255, "\udcff" * 255, "é" * 127, "kept-", "removed-x", "a\nb", " "])
def test_any_entry_of_boxes_can_be_quarantined(home: HomeLayout, directories: Directories, name: str) -> None:
    (home.boxes_dir / name).mkdir()
    (home.boxes_dir / name / "file").touch()
    os.utime(home.boxes_dir / name, (0, 0))
    target = directories.quarantine(name)
    assert (target / "file").exists()
    assert time.time() - target.stat().st_mtime < 60  # the grace period begins now
    assert directories.names() == []
    directories.delete_removed()
    assert target.exists()


class Clocks:
    """The two clocks that purge looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = time.time()
        self.boot = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "clock_gettime", lambda _which: self.boot)

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


def test_what_was_kept_for_the_grace_period_is_deleted_and_nothing_else(
    home: HomeLayout, directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch)
    (home.boxes_dir / "tree/deep").mkdir(parents=True)
    (home.boxes_dir / "file").touch()
    (tmp_path / "precious").mkdir()
    (home.boxes_dir / "link").symlink_to(tmp_path / "precious")
    kept = sorted(directories.quarantine(name).name for name in ("tree", "file", "link"))
    (home.quarantine_dir / "put here by hand").mkdir()
    assert directories.purge_quarantine(DAY) == []
    clocks.pass_(DAY - 60)
    assert directories.purge_quarantine(DAY) == []
    clocks.pass_(120)
    assert sorted(directories.purge_quarantine(DAY)) == kept
    assert os.listdir(home.quarantine_dir) == ["put here by hand"]
    assert (tmp_path / "precious").is_dir()


def test_a_wall_clock_that_leaps_deletes_nothing(
    home: HomeLayout, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch)
    (home.boxes_dir / "lost").mkdir()
    kept = directories.quarantine("lost").name
    clocks.wall += 365 * DAY
    for _ in range(50):
        assert directories.purge_quarantine(7 * DAY) == []
        clocks.pass_(60)
    clocks.wall -= 365 * DAY  # somebody set it right again
    clocks.pass_(DAY)
    assert directories.purge_quarantine(7 * DAY) == []
    clocks.pass_(7 * DAY)
    assert Directories(home).purge_quarantine(7 * DAY) == []  # a daemon that has just been started
    assert directories.purge_quarantine(7 * DAY) == [kept]


def test_without_a_grace_period_it_goes_at_the_first_look(home: HomeLayout, directories: Directories) -> None:
    (home.boxes_dir / "lost").mkdir()
    assert len({directories.quarantine("lost").name} & set(directories.purge_quarantine(0.0))) == 1


def test_a_quarantine_that_cannot_be_looked_through_is_left_for_later(
    home: HomeLayout, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.quarantine_dir / "removed-x").mkdir()

    def refuse(_path: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        directories.delete_removed()
        with pytest.raises(ResourceExhausted, match="look through"):
            directories.names()
    directories.delete_removed()
    assert list(home.quarantine_dir.iterdir()) == []
