"""The input of a command on its way: in order, bounded, to its end, and counted as it is taken."""

from __future__ import annotations

import os
import pty
import select
import threading
import tty
from collections.abc import Iterator

import pytest

from boxlited.shim.loop import Loop
from boxlited.shim.stdin import MAX_QUEUED, Stdin


class Pipe:
    def __init__(self) -> None:
        self.loop = Loop()
        self.read, write = os.pipe()
        os.set_blocking(write, False)
        self.stdin = Stdin(self.loop, write)

    def turn(self) -> None:
        """Until what can move has moved."""
        self.loop.after(0.0, self.loop.stop)
        self.loop._stopped = False
        self.loop.run()

    def take_all(self) -> bytes:
        """As a slow reader: little by little until the end."""
        found = []
        while True:
            if not select.select([self.read], [], [], 0)[0]:
                self.turn()
                continue
            data = os.read(self.read, 4096)
            if not data:
                return b"".join(found)
            found.append(data)
            self.turn()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.stdin.close()
    os.close(one.read)


def test_everything_arrives_in_order_through_a_slow_reader(pipe: Pipe) -> None:
    data = b"".join(b"%07d\n" % number for number in range(60_000))
    for start in range(0, len(data), 10_000):
        pipe.stdin.write(data[start : start + 10_000])
    pipe.stdin.end()
    assert pipe.take_all() == data
    assert pipe.stdin.taken == pipe.stdin.received == len(data)


def test_end_of_nothing_is_seen(pipe: Pipe) -> None:
    pipe.stdin.end()
    assert os.read(pipe.read, 1) == b""
    pipe.stdin.end()
    pipe.stdin.write(b"too late")
    assert pipe.stdin.taken == len(b"too late")


def test_is_full_and_says_when_there_is_room(pipe: Pipe) -> None:
    told: list[int] = []
    pipe.stdin.drained = lambda: told.append(pipe.stdin.taken)
    pipe.stdin.write(b"x" * (MAX_QUEUED + 200_000))
    assert pipe.stdin.is_full
    before = pipe.stdin.taken
    while pipe.stdin.is_full:
        os.read(pipe.read, 65536)
        pipe.turn()
    assert told == sorted(told)
    assert told[-1] == pipe.stdin.taken > before


def test_a_reader_that_closes_takes_the_rest_with_it(pipe: Pipe) -> None:
    pipe.stdin.write(b"x" * 500_000)
    os.close(pipe.read)
    pipe.turn()
    pipe.turn()
    pipe.stdin.write(b"more")
    assert not pipe.stdin.is_full
    assert pipe.stdin.taken == pipe.stdin.received == 500_004
    pipe.read = os.open("/dev/null", os.O_RDONLY)


def test_close_forgets_what_waits_and_says_so(pipe: Pipe) -> None:
    told: list[int] = []
    pipe.stdin.write(b"x" * 500_000)
    pipe.stdin.drained = lambda: told.append(pipe.stdin.taken)
    pipe.stdin.close()
    assert told == [500_000]
    assert pipe.loop._handlers == {}
    pipe.stdin.close()
    pipe.stdin.end()


def test_is_not_watched_while_nothing_waits(pipe: Pipe) -> None:
    """A pipe with room is always writable: the loop would spin."""
    pipe.stdin.write(b"x")
    assert pipe.loop._handlers == {}
    pipe.stdin.write(b"x" * 500_000)
    assert len(pipe.loop._handlers) == 1


@pytest.mark.parametrize("text", [b"", b"a line\n", b"no line end"])
def test_end_on_a_terminal_ends_the_reader_in_the_middle_of_a_line_too(text: bytes) -> None:
    loop = Loop()
    master, slave = pty.openpty()
    attributes = tty.tcgetattr(slave)
    attributes[3] &= ~tty.ECHO
    tty.tcsetattr(slave, tty.TCSANOW, attributes)
    os.set_blocking(master, False)
    stdin = Stdin(loop, os.dup(master), eof=b"\x04")
    found: list[bytes] = []

    def read() -> None:
        while data := os.read(slave, 100):
            found.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    stdin.write(text)
    stdin.end()
    reader.join(10)
    assert not reader.is_alive()
    assert b"".join(found) == text
    assert stdin.taken == stdin.received == len(text)
    stdin.close()
    os.close(master)
    os.close(slave)
