"""A tree that a hostile box left is deleted: real directories, as deep and as locked as a box can make them."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxlited.supervisor.deletion import delete_tree


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 12, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def nest(top: Path, depth: int) -> None:
    """Directories within directories, deeper than any path may be long."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 40, dir_fd=fd)
        inner = os.open("d" * 40, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.mark.usefixtures("few_descriptors")
def test_deeper_than_the_stack_the_descriptors_and_a_path(tmp_path: Path) -> None:
    nest(tmp_path / "doomed", 3 * sys.getrecursionlimit())
    assert delete_tree(str(tmp_path), "doomed", "moved-")
    assert os.listdir(tmp_path) == []


def test_wide_and_with_names_of_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "doomed").mkdir()
    for number in range(2500):
        (tmp_path / "doomed" / f"f{number}").touch()
    os.mkdir(os.fsencode(tmp_path / "doomed") + b"/\xff\n\x1b[31m")
    os.mkfifo(tmp_path / "doomed" / "fifo")
    assert delete_tree(str(tmp_path), "doomed", "moved-")
    assert os.listdir(tmp_path) == []


def test_without_permissions(tmp_path: Path) -> None:
    (tmp_path / "doomed" / "a" / "b").mkdir(parents=True)
    (tmp_path / "doomed" / "a" / "b" / "file").write_text("x")
    for path in ("doomed/a/b/file", "doomed/a/b", "doomed/a", "doomed"):
        (tmp_path / path).chmod(0)
    assert delete_tree(str(tmp_path), "doomed", "moved-")
    assert os.listdir(tmp_path) == []


def test_links_are_deleted_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o755)
    (tmp_path / "kept" / "file").write_text("safe")
    (tmp_path / "doomed").mkdir()
    (tmp_path / "doomed" / "directory").symlink_to(tmp_path / "kept")
    (tmp_path / "doomed" / "file").symlink_to(tmp_path / "kept" / "file")
    assert delete_tree(str(tmp_path), "doomed", "moved-")
    assert (tmp_path / "kept" / "file").read_text() == "safe"
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path) == ["kept"]


def test_a_link_in_the_place_of_the_tree_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("safe")
    (tmp_path / "doomed").symlink_to(tmp_path / "kept")
    assert not delete_tree(str(tmp_path), "doomed", "moved-")
    assert (tmp_path / "kept" / "file").read_text() == "safe"


def test_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    assert delete_tree(str(tmp_path), "never-there", "moved-")


def test_an_interrupted_deletion_leaves_names_that_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "removed-x" / "a" / "b").mkdir(parents=True)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", fail)
        assert not delete_tree(str(tmp_path), "removed-x", "removed-")
    left = os.listdir(tmp_path)
    assert len(left) == 3
    assert all(name.startswith("removed-") for name in left)
    for name in left:
        assert delete_tree(str(tmp_path), name, "removed-")
    assert os.listdir(tmp_path) == []
