"""The watcher of pidfds: each death is told once, also where the kernel had no room to watch at first."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator

import pytest

from boxlited import failpoints
from boxlited.model import BoxID
from boxlited.supervisor.watch import Watcher

BOX = BoxID.parse("a" * 16)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as one:
        yield one
        one.kill()


@pytest.fixture
def pidfd(process: subprocess.Popen[bytes]) -> Iterator[int]:
    fd = os.pidfd_open(process.pid)
    yield fd
    os.close(fd)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def told() -> list[tuple[BoxID, int]]:
    return []


@pytest.fixture
def watcher(told: list[tuple[BoxID, int]]) -> Iterator[Watcher]:
    one = Watcher(lambda box_id, pidfd: told.append((box_id, pidfd)))
    yield one
    one._epoll.close()


def test_a_death_is_told_once(
    watcher: Watcher, process: subprocess.Popen[bytes], pidfd: int, told: list[tuple[BoxID, int]]
) -> None:
    watcher.add(BOX, pidfd)
    assert watcher.poll() == 0
    end(process)
    watcher.poll()
    watcher.poll()
    assert told == [(BOX, pidfd)]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.ENOMEM])
def test_what_cannot_be_watched_yet_is_tried_again_and_its_death_is_not_lost(
    watcher: Watcher, process: subprocess.Popen[bytes], pidfd: int, told: list[tuple[BoxID, int]], reason: int
) -> None:
    failpoints.load(f"watch.before_register=error:{reason}")
    try:
        watcher.add(BOX, pidfd)
    finally:
        failpoints.load("")
    end(process)  # between the refusal and the next poll
    watcher.poll()
    assert told == [(BOX, pidfd)]


def test_what_was_discarded_before_it_could_be_watched_is_not_tried_again(
    watcher: Watcher, process: subprocess.Popen[bytes], pidfd: int, told: list[tuple[BoxID, int]]
) -> None:
    failpoints.load("watch.before_register=error:28")
    try:
        watcher.add(BOX, pidfd)
    finally:
        failpoints.load("")
    watcher.discard(pidfd)
    end(process)
    watcher.poll()
    assert told == []
