"""The shim's console log: bounded and alive, whatever becomes of its files; a lost word is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxlited.shim.console import Console

LOST = b"[boxlited: %d bytes of output were lost]\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "console.log"


def test_output_goes_on_after_the_directory_was_removed_and_made_again(log: Path) -> None:
    console = Console(str(log), 10, 1)
    console.write(b"12345678\n")
    shutil.rmtree(log.parent)
    for _ in range(3):  # the rotation finds nothing, and then there is nothing to close
        console.write(b"12345678\n")
    log.parent.mkdir()
    console.write(b"here\n")
    assert log.read_bytes() == LOST % 27 + b"here\n"


def test_the_bound_holds_although_nothing_can_be_moved_away(log: Path) -> None:
    Path(f"{log}.1").mkdir()
    (Path(f"{log}.1") / "in the way").touch()
    console = Console(str(log), 100, 1)
    for number in range(50):
        console.write(b"%048d\n" % number)
        assert log.stat().st_size <= 100
    assert log.read_bytes().endswith(b"%048d\n" % 49)


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_is_no_log_is_not_written_to_and_holds_nobody(log: Path, kind: str) -> None:
    outside = log.parent / "outside"
    outside.write_bytes(b"precious")
    if kind == "link":
        log.symlink_to(outside)
    else:
        os.mkfifo(log)
    console = Console(str(log), 100, 1)
    console.write(b"mine\n")
    assert outside.read_bytes() == b"precious"
    log.unlink()
    console.write(b"more\n")
    assert log.read_bytes() == LOST % 5 + b"more\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(1, 40), st.integers(0, 3))
def test_whatever_is_written_the_files_are_bounded_and_the_newest_bytes_are_there(
    tmp_path: Path, pieces: list[bytes], max_bytes: int, keep: int
) -> None:
    directory = tmp_path / os.urandom(6).hex()
    directory.mkdir()
    log = directory / "console.log"
    console = Console(str(log), max_bytes, keep)
    for piece in pieces:
        console.write(piece)
    os.close(console._fd)
    names = [Path(f"{log}.{number}") for number in range(keep, 0, -1)] + [log]
    assert {path.name for path in directory.iterdir()} <= {path.name for path in names}
    contents = [path.read_bytes() for path in names if path.exists()]
    assert all(len(content) <= max_bytes for content in contents)
    assert b"".join(pieces).endswith(b"".join(contents))
