"""The exit file: seed records, hostile ones, atomic writing, the stash."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from boxlited.errors import StorageError
from boxlited.shim import main as shim_main
from boxlited.supervisor.exitfile import (
    KINDS,
    MAX_EXIT_BYTES,
    ExitFileUnreadable,
    ExitInfo,
    decode,
    encode,
    read_exit_file,
    stash,
    write_exit_file,
)
from tests.unit.durable import watch_durability


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


ANY_TEXT = st.none() | st.text(st.characters(exclude_categories=()), max_size=300).map(lambda text: text * 40)


@example("panic", ("\U0001f600" * 9000,) * 5)
@example("signal", ("\ud800" * 9000, "\0" * 9000, None, '"' * 9000, "\x1b" * 9000))
@given(st.sampled_from(sorted(KINDS)), st.tuples(*[ANY_TEXT] * 5))
def test_whatever_is_written_the_reader_takes(kind: str, texts: tuple[str | None, ...]) -> None:
    """Long and strange texts are cut, never the reason why an end is not told."""
    data = encode(ExitInfo(kind, 7, texts[0], texts[1], texts[2], texts[3], texts[4]))
    assert len(data) <= MAX_EXIT_BYTES
    read = decode(data)
    assert read is not None
    assert (read.kind, read.exit_code) == (kind, 7)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
KEYS = ("type", "exit_code", "signal", "message", "location", "error_kind", "run_id", "ambiguous")


@given(st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from([*sorted(KINDS), 1, 134])))
def test_wrong_types_are_refused_or_left_out(content: dict[str, object]) -> None:
    try:
        info = decode(json.dumps(content).encode())
    except ExitFileUnreadable:
        return
    if info is not None:
        assert info.kind in KINDS
        assert type(info.exit_code) is int
        assert all(value is None or type(value) is str for value in info[2:7])


@pytest.mark.parametrize(
    "name", [7, None, "", "SIG", "sigabrt", "SIG\ud800", "\x1b[2J", "SIGX\n", "SIG" + "A" * 99, "ABRT"]
)
def test_only_a_signals_name_passes_for_one(name: object) -> None:
    """It goes into rows and tables as it is."""
    info = decode(json.dumps({"type": "signal", "exit_code": 134, "signal": name}).encode())
    assert info is not None
    assert info.signal == "unknown signal"


@pytest.mark.parametrize("name", ["SIGABRT", "SIG33", "SIGRTMIN+3", "SIGRTMAX-14"])
def test_every_signals_name_passes(name: str) -> None:
    assert decode(encode(ExitInfo("signal", 134, signal=name))) == ExitInfo("signal", 134, signal=name)


def test_an_error_that_proves_nothing_passes_through(tmp_path: Path) -> None:
    write_exit_file(tmp_path / "exit", ExitInfo("exited", 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many") as caught:
            read_exit_file(tmp_path / "exit")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_a_directory_that_is_a_file_holds_no_exit_file(tmp_path: Path) -> None:
    (tmp_path / "box").write_text("")
    assert read_exit_file(tmp_path / "box" / "exit") is None


def test_a_short_write_leaves_the_old_record_and_no_litter(tmp_path: Path) -> None:
    write_exit_file(tmp_path / "exit", ExitInfo("exited", 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="short write"):
            write_exit_file(tmp_path / "exit", ExitInfo("exited", 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_exit_file(tmp_path / "exit") == ExitInfo("exited", 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit"]


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
def test_what_lies_under_the_temporary_name_is_replaced_and_not_written_to(tmp_path: Path, kind: str) -> None:
    victim, planted = tmp_path / "victim", tmp_path / f"exit.{os.getpid()}.tmp"
    victim.write_text("keep")
    if kind == "symlink":
        planted.symlink_to(victim)
    elif kind == "hard link":
        planted.hardlink_to(victim)
    else:
        os.mkfifo(planted)
    write_exit_file(tmp_path / "exit", ExitInfo("exited", 3))
    assert victim.read_text() == "keep"
    assert read_exit_file(tmp_path / "exit") == ExitInfo("exited", 3)
    assert not os.path.lexists(planted)


def test_only_ended_by_itself_is_no_crash() -> None:
    assert not ExitInfo("exited", 9).is_crash
    assert all(ExitInfo(kind, 1).is_crash for kind in ("signal", "panic", "error"))


def test_missing_is_none(tmp_path: Path) -> None:
    assert read_exit_file(tmp_path / "exit") is None


WHY = {
    "fifo": "not a regular file",
    "symlink": "a link or a socket",
    "huge": "is larger than",
    "hard link": "more than one hard link",
    "directory": "not a regular file",
    "socket": "a link or a socket",
}


@pytest.mark.parametrize("kind", WHY)
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
    with pytest.raises(ExitFileUnreadable, match=WHY[kind]):
        read_exit_file(path)


def test_write_is_atomic_and_leaves_nothing_beside(tmp_path: Path) -> None:
    info = ExitInfo("signal", 137, signal="SIGKILL", run_id="ab")
    write_exit_file(tmp_path / "exit", info)
    write_exit_file(tmp_path / "exit", info)
    assert read_exit_file(tmp_path / "exit") == info
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit"]


def test_a_record_is_durable_before_it_has_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = ExitInfo("signal", 137, signal="SIGKILL", run_id="ab")
    passed = watch_durability(monkeypatch)
    write_exit_file(tmp_path / "exit", info)
    temporary = f"exit.{os.getpid()}.tmp"
    assert passed == [f"sync {temporary}:{len(encode(info))}", "rename exit", f"sync {tmp_path.name}:1"]


@pytest.mark.parametrize("has_spawner", [True, False])
def test_without_a_daemon_to_record_the_end_its_file_outlasts_a_power_cut_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_spawner: bool
) -> None:
    """The spawner is a shim's parent for as long as it lives, and it lives as long as its daemon does."""
    passed = watch_durability(monkeypatch)
    shim_main._record(str(tmp_path / "exit"), ExitInfo("exited", 3), os.getppid() if has_spawner else 1 << 30)
    steps = [step.partition(":")[0] for step in passed]
    last = [] if has_spawner else [f"sync {tmp_path.name}"]
    assert steps == [f"sync exit.{os.getpid()}.tmp", "rename exit", *last]


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


@pytest.mark.parametrize("active", ["file", "fifo", "dangling symlink", "directory", "full directory"])
@pytest.mark.parametrize("previous", ["nothing", "file", "fifo", "directory", "full directory"])
def test_stash_frees_the_slot_whatever_lies_in_either(tmp_path: Path, active: str, previous: str) -> None:
    first, second = tmp_path / "exit", tmp_path / "exit.previous"
    for path, kind in ((first, active), (second, previous)):
        lay(path, kind)
    assert stash(first, second)
    assert not os.path.lexists(first)
    if active == "file":
        assert read_exit_file(second) == ExitInfo("exited", 5)
    assert not stash(first, second)
    lay(first, active)
    assert stash(first, second)  # and in the next life again
    assert not os.path.lexists(first)


def lay(path: Path, kind: str) -> None:
    if kind == "file":
        write_exit_file(path, ExitInfo("exited", 5))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling symlink":
        path.symlink_to("/nonexistent")
    elif kind != "nothing":
        path.mkdir()
        if kind == "full directory":
            (path / "entry").touch()


def test_stash_below_a_directory_that_is_gone_or_a_file_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "box").touch()
    for directory in (tmp_path / "none", tmp_path / "box"):
        assert not stash(directory / "exit", directory / "exit.previous")
