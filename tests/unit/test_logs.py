"""Reading a console log: all of its files, the last lines of them, and none that is not a plain file."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from boxlited.errors import ResourceExhausted, StorageError
from boxlited.supervisor.logs import CHUNK_BYTES, LogReader
from tests.unit.limits import no_free_descriptor


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def rotated(log: Path, *contents: bytes) -> None:
    """Files of the log, the newest first: console.log, console.log.1, ..."""
    for number, content in enumerate(contents):
        (log.with_name(f"{log.name}.{number}") if number else log).write_bytes(content)


def open_files() -> set[str]:
    return {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    }


async def read(log: Path, tail: int | None = None, since: float | None = None) -> bytes:
    """A reading that does not follow, which ends by itself also while the box writes on."""
    pieces = [piece async for piece in LogReader(log, lambda: True).read(tail=tail, since=since)]
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)
    assert not any(str(log) in name for name in open_files())
    return b"".join(pieces)


# ---- whole, tail, since


async def test_a_log_that_is_not_there_is_empty(log: Path) -> None:
    assert await read(log) == b""
    assert await read(log, tail=5) == b""
    assert await read(log / "no/such/directory") == b""


async def test_all_files_are_read_the_oldest_first_beyond_nine(log: Path) -> None:
    rotated(log, *(b"%d\n" % number for number in range(12, 0, -1)))
    assert await read(log) == b"".join(b"%d\n" % number for number in range(1, 13))


async def test_a_gap_in_the_numbers_and_foreign_names_do_no_harm(log: Path) -> None:
    rotated(log, b"new\n", b"old\n", b"older\n")
    log.with_name("console.log.1").unlink()
    for name in (
        "console.log.²",
        "console.log.x",
        "console.log.101",
        "console.log.1.gz",
        "console.log.007",
        "console.log.",
    ):
        log.with_name(name).write_bytes(b"foreign\n")
    assert await read(log) == b"older\nnew\n"


async def test_a_file_that_is_met_under_two_names_is_read_once(log: Path) -> None:
    """As when a rotation moves it while the files are opened."""
    rotated(log, b"new\n", b"old\n")
    os.link(log.with_name("console.log.1"), log.with_name("console.log.2"))
    assert await read(log) == b"old\nnew\n"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (0, b""),
        (-1, b""),
        (1, b"f"),
        (2, b"e\nf"),
        (3, b"d\ne\nf"),
        (4, b"bc\nd\ne\nf"),
        (5, b"a\nbc\nd\ne\nf"),
        (9, b"a\nbc\nd\ne\nf"),
    ],
)
async def test_a_tail_reaches_over_rotations_and_lines_that_they_cut(log: Path, tail: int, expected: bytes) -> None:
    rotated(log, b"e\nf", b"", b"c\nd\n", b"a\nb")
    assert await read(log, tail=tail) == expected


async def test_a_tail_is_right_just_after_a_rotation(log: Path) -> None:
    rotated(log, b"", b"1\n2\n3\n")
    assert await read(log, tail=2) == b"2\n3\n"
    os.unlink(log)
    assert await read(log, tail=1) == b"3\n"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([b"\n", b"a", b"\n\n", b"x" * 70000, b"y\n" * 40000]), max_size=4), max_size=4),
    st.integers(0, 12),
)
def test_a_tail_is_the_last_lines_of_all_that_was_written(parts: list[list[bytes]], tail: int) -> None:
    contents = [b"".join(part) for part in parts]
    whole = b"".join(reversed(contents))
    lines = whole.splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "console.log"
        rotated(log, *contents)
        assert trio.run(read, log) == whole
        assert trio.run(read, log, tail) == b"".join(lines[len(lines) - min(tail, len(lines)) :])


async def test_a_huge_line_comes_whole_and_in_bounded_pieces(log: Path) -> None:
    content = os.urandom(16).hex().encode() * 200_000 + b"\nlast"
    rotated(log, content)
    assert await read(log) == content
    assert await read(log, tail=2) == content
    assert await read(log, tail=1) == b"last"


async def test_the_tail_of_a_huge_file_leaves_others_their_turn(log: Path) -> None:
    rotated(log, b"")
    os.truncate(log, 64 << 20)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        async with aclosing(LogReader(log, lambda: False).read(tail=1)) as pieces:
            assert len(await anext(pieces)) == CHUNK_BYTES
        nursery.cancel_scope.cancel()
    assert turns > 1000  # of the 1024 blocks


async def test_since_leaves_out_files_that_were_last_written_before(log: Path) -> None:
    rotated(log, b"3\n", b"2\n", b"1\n")
    for name, written in ((log, 100), (log.with_name("console.log.1"), 200), (log.with_name("console.log.2"), 150)):
        os.utime(name, (written, written))
    assert await read(log, since=150) == b"1\n2\n3\n"
    assert await read(log, since=150.5) == b"2\n3\n"
    assert await read(log, since=1e12) == b"3\n"  # the newest file always: it may be written right now
    assert await read(log, since=150.5, tail=3) == b"2\n3\n"


# ---- hostile files


def as_link(path: Path) -> None:
    path.with_name("secret").write_bytes(b"secret")
    path.symlink_to("secret")


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, as_link, as_socket, os.mkdir])
@pytest.mark.parametrize("name", ["console.log", "console.log.2"])
@pytest.mark.parametrize("follow", [False, True])
async def test_what_is_no_regular_file_is_refused_before_the_first_piece(
    log: Path, make: Callable[[Path], None], name: str, follow: bool
) -> None:
    rotated(log, b"new\n", b"old\n")
    log.with_name(name).unlink(missing_ok=True)
    make(log.with_name(name))
    with trio.fail_after(5), pytest.raises(StorageError, match="console log"):
        await anext(LogReader(log, lambda: True).read(follow=follow))
    assert not any(str(log) in opened for opened in open_files())


async def test_without_a_free_descriptor_it_is_said_so(log: Path) -> None:
    with no_free_descriptor(), pytest.raises(ResourceExhausted, match="LimitNOFILE"):
        await anext(LogReader(log, lambda: True).read())
