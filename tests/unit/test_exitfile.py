"""The exit file: seed records, hostile ones, atomic writing, the stash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.errors import StorageError
from boxlited.supervisor.exitfile import (
    ExitFileUnreadable,
    ExitInfo,
    decode,
    encode,
    read_exit_file,
    stash,
    write_exit_file,
)


@pytest.mark.parametrize(
    ("data", "info"),
    [
        (b'{"type":"signal","exit_code":134,"signal":"SIGABRT"}', ExitInfo("signal", 134, signal="SIGABRT")),
        (
            b'{"type":"panic","exit_code":101,"message":"m","location":"f:1:2"}',
            ExitInfo("panic", 101, message="m", location="f:1:2"),
        ),
        (
            b'{"type":"error","exit_code":1,"message":"m","error_kind":"unsupported"}',
            ExitInfo("error", 1, message="m", error_kind="unsupported"),
        ),
        (b'{"type":"error","exit_code":1,"message":"m"}', ExitInfo("error", 1, message="m")),
        (
            b'{"type":"error","exit_code":1,"message":"m","error_kind":"from the future"}',
            ExitInfo("error", 1, message="m", error_kind="engine"),
        ),
        (b'{"type":"exited","exit_code":0,"new":[1]}', ExitInfo("exited", 0)),
        (b'{"type":"from the future","exit_code":0}', None),
    ],
)
def test_records_are_read(data: bytes, info: ExitInfo | None) -> None:
    assert decode(data) == info


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"12", b'{"exit_code":1}', b'{"type":1,"exit_code":1}', b'{"type":"signal"}',
     b'{"type":"exited","exit_code":true}', b'{"type":"exited","exit_code":1e3}', b"[" * 50000, b"\xff\xff",
     b'{"type":"exited","exit_code":99999999999}'],
)  # fmt: skip
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ExitFileUnreadable):
        decode(data)


@given(st.binary(max_size=300))
def test_decode_raises_nothing_else(data: bytes) -> None:
    try:
        decode(data)
    except StorageError:
        return


@given(
    st.builds(
        ExitInfo,
        st.sampled_from(["signal", "panic", "error", "exited"]),
        st.integers(-(2**31), 2**31 - 1),
        message=st.none() | st.text(max_size=50),
        signal=st.none() | st.just("SIGABRT"),
        location=st.none() | st.text(max_size=20),
        error_kind=st.none() | st.sampled_from(["engine", "unsupported"]),
        run_id=st.none() | st.text("0123456789abcdef", min_size=1),
        ambiguous=st.booleans(),
    )
)
def test_every_record_round_trips(info: ExitInfo) -> None:
    read = decode(encode(info))
    assert read is not None
    assert read._replace(signal=info.signal) == info


def test_only_ended_by_itself_is_no_crash() -> None:
    assert not ExitInfo("exited", 9).is_crash
    assert all(ExitInfo(kind, 1).is_crash for kind in ("signal", "panic", "error"))


def test_missing_is_none(tmp_path: Path) -> None:
    assert read_exit_file(tmp_path / "exit") is None


@pytest.mark.parametrize("kind", ["fifo", "symlink", "huge", "hard link", "directory", "socket"])
def test_hostile_files_are_refused_without_blocking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "exit"
    real = tmp_path / "real"
    real.write_text('{"type":"exited","exit_code":0}')
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(real)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(10 << 30)
    elif kind == "hard link":
        path.hardlink_to(real)
    elif kind == "directory":
        path.mkdir()
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    with pytest.raises(ExitFileUnreadable):
        read_exit_file(path)


def test_write_is_atomic_and_leaves_nothing_beside(tmp_path: Path) -> None:
    info = ExitInfo("signal", 137, signal="SIGKILL", run_id="ab")
    write_exit_file(tmp_path / "exit", info)
    write_exit_file(tmp_path / "exit", info)
    assert read_exit_file(tmp_path / "exit") == info
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit"]


def test_failed_write_leaves_the_old_record(tmp_path: Path) -> None:
    (tmp_path / "exit").mkdir()  # rename over a directory fails
    with pytest.raises(OSError, match="directory"):
        write_exit_file(tmp_path / "exit", ExitInfo("exited", 0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit"]


def test_stash_moves_whatever_is_there(tmp_path: Path) -> None:
    active, previous = tmp_path / "exit", tmp_path / "exit.previous"
    assert not stash(active, previous)
    write_exit_file(active, ExitInfo("exited", 1))
    assert stash(active, previous)
    assert not active.exists()
    assert read_exit_file(previous) == ExitInfo("exited", 1)
    os.mkfifo(active)
    assert stash(active, previous)
    assert not os.path.lexists(active)


def test_stash_of_a_directory_frees_the_slot(tmp_path: Path) -> None:
    write_exit_file(tmp_path / "exit.previous", ExitInfo("exited", 1))
    (tmp_path / "exit").mkdir()
    stash(tmp_path / "exit", tmp_path / "exit.previous")
    assert not (tmp_path / "exit").exists()
