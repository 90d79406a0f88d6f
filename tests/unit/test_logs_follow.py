"""Following a console log: nothing twice and nothing left out, however its files move meanwhile."""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from boxlited.shim.console import Console
from boxlited.supervisor.logs import FOLLOW_SECONDS, LogReader
from tests.unit.test_logs import log, open_files, rotated

__all__ = ["log"]  # the fixture


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


class Follower:
    """Follows a log in the background."""

    def __init__(self, log: Path) -> None:
        self.box_runs = True
        self.seen = b""
        self.ended = trio.Event()
        self._reader = LogReader(log, lambda: self.box_runs)

    async def run(self, tail: int | None = None) -> None:
        async with aclosing(self._reader.read(follow=True, tail=tail)) as pieces:
            async for piece in pieces:
                self.seen += piece
        self.ended.set()

    async def end(self) -> bytes:
        self.box_runs = False
        with trio.fail_after(60):
            await self.ended.wait()
        return self.seen


async def test_following_ends_after_the_last_words_of_the_box(
    log: Path, autojump_clock: trio.testing.MockClock
) -> None:
    append(log, b"begin\n")
    follower = Follower(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(10 * FOLLOW_SECONDS)
        assert follower.seen == b"begin\n"
        append(log, b"last words")
        assert await follower.end() == b"begin\nlast words"
    assert str(log) not in open_files()


async def test_following_begins_before_the_log_does(log: Path, autojump_clock: trio.testing.MockClock) -> None:
    follower = Follower(log.parent / "later" / log.name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run, 0)
        await trio.sleep(1)
        os.mkdir(log.parent / "later")
        rotated(log.parent / "later" / log.name, b"2\n", b"1\n")
        assert await follower.end() == b"1\n2\n"


@pytest.mark.parametrize("keep", [0, 1, 3])
@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_following_loses_nothing_that_the_rotation_keeps(
    log: Path, autojump_clock: trio.testing.MockClock, keep: int, at_once: int
) -> None:
    """With `at_once` rotations between two looks; what `keep` drops before a look is gone, and only that."""
    console = Console(str(log), 11, keep)
    console.write(b"begin.....\n")
    follower = Follower(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(1)
        rounds = [[b"%d.%d......\n" % (turn, number) for number in range(at_once)] for turn in range(4)]
        for lines in rounds:
            for line in lines:
                console.write(line)  # each is a file of its own
            await trio.sleep(1)
        seen = await follower.end()
    assert seen == b"begin.....\n" + b"".join(b"".join(lines[-(keep + 1) :]) for lines in rounds)


async def test_what_is_written_while_a_slow_reader_waits_comes_once(
    log: Path, autojump_clock: trio.testing.MockClock
) -> None:
    console = Console(str(log), 20, 50)
    written, seen, box_runs = b"", b"", True
    with trio.fail_after(3600):
        async with aclosing(LogReader(log, lambda: box_runs).read(follow=True)) as pieces:
            for turn in range(100):
                for number in range(turn % 5):
                    line = b"%d.%d\n" % (turn, number)
                    console.write(line)
                    written += line
                if len(seen) < len(written):
                    seen += await anext(pieces)
            box_runs = False
            async for piece in pieces:
                seen += piece
    assert seen == written


async def test_a_rotation_during_the_reading_of_older_files_repeats_and_omits_nothing(log: Path) -> None:
    rotated(log, b"3\n", b"2\n", b"1\n")
    seen = []
    async for piece in LogReader(log, lambda: True).read():
        seen.append(piece)
        for number in (3, 2, 1, 0):  # as the shim would, after each piece
            older = log.with_name(f"console.log.{number}") if number else log
            if older.exists():
                older.rename(log.with_name(f"console.log.{number + 1}"))
        append(log, b"new\n")
    assert b"".join(seen) == b"1\n2\n3\n"


async def test_the_last_file_is_read_also_when_the_box_rotated_and_ended_between_two_looks(
    log: Path, autojump_clock: trio.testing.MockClock
) -> None:
    console = Console(str(log), 11, 2)
    console.write(b"first....\n")
    looks = 0

    def box_runs() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:  # it says more and ends, after the reader's last sleep
            console.write(b"second...\n")
            console.write(b"third....\n")
        return looks < 2

    pieces = [piece async for piece in LogReader(log, box_runs).read(follow=True)]
    assert b"".join(pieces) == b"first....\nsecond...\nthird....\n"


async def test_a_log_that_was_cut_is_followed_from_its_new_end(
    log: Path, autojump_clock: trio.testing.MockClock
) -> None:
    append(log, b"x" * 100)
    follower = Follower(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(1)
        os.truncate(log, 0)
        await trio.sleep(1)
        append(log, b"again")
        assert await follower.end() == b"x" * 100 + b"again"


async def test_what_came_between_the_last_byte_and_the_rotation_is_read(
    log: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(str(log), 20, 2)
    console.write(b"first....\n")
    more = [b"third....\n", b"second...\n"]
    read = os.pread

    def read_and_be_overtaken(fd: int, size: int, position: int) -> bytes:
        data = read(fd, size, position)
        while not data and more:
            console.write(more.pop())
        return data

    monkeypatch.setattr(os, "pread", read_and_be_overtaken)
    follower = Follower(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(1)
        assert await follower.end() == b"first....\nsecond...\nthird....\n"


async def test_older_files_are_not_repeated_when_the_followed_one_is_gone(
    log: Path, autojump_clock: trio.testing.MockClock
) -> None:
    rotated(log, b"3\n", b"2\n", b"1\n")
    for name, written in (("console.log.1", 200), ("console.log.2", 100)):
        os.utime(log.with_name(name), (written, written))
    follower = Follower(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(1)
        os.unlink(log)
        await trio.sleep(1)
        append(log, b"4\n")
        assert await follower.end() == b"1\n2\n3\n4\n"


async def test_a_clock_that_was_set_back_stops_no_follower(log: Path, autojump_clock: trio.testing.MockClock) -> None:
    rotated(log, b"1\n")
    follower = Follower(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(1)
        os.unlink(log)
        rotated(log, b"2\n")
        os.utime(log, (100, 100))
        assert await follower.end() == b"1\n2\n"
