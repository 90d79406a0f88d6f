"""Prevents, and tells, that a process is started while a unit test runs or its module is imported.

Python says of each start before it happens (PEP 578). An audit hook can never be taken away: this one is there once
for a run, and deaf outside of unit tests. What forks by a system call of its own (as supervisor/clone.py does) is told
of and not prevented; what `multiprocessing` spawns without a fork is not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"})
MESSAGE = "a unit test starts no process: put it under tests/integration"


class NoProcesses:
    def __init__(self) -> None:
        self._started: list[str] = []
        self._is_on = False

    def install(self) -> None:
        """For good."""
        sys.addaudithook(self.hear)
        os.register_at_fork(before=self.fork)

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Stops every start, and gives what was stopped."""
        before = self._is_on, self._started
        self._is_on, self._started = True, []
        try:
            yield self._started
        finally:
            self._is_on, self._started = before

    @contextmanager
    def on(self) -> Iterator[None]:
        """Fails at the end too: what is tested may have swallowed the failure, or made an error of its own of it."""
        with self.listening() as started:
            try:
                yield
            finally:
                if started and not isinstance(sys.exc_info()[1], pytest.fail.Exception):
                    pytest.fail(words(started))

    def hear(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self._is_on and event in STARTS:
            self._started.append(event)
            pytest.fail(words([event]))

    def fork(self) -> None:
        """Python ignores what is raised here."""
        if self._is_on:
            self._started.append("a fork")

    def forget(self) -> list[str]:
        started = self._started.copy()
        self._started.clear()
        return started


GUARD = NoProcesses()


def words(started: list[str]) -> str:
    return f"{MESSAGE} ({', '.join(started)})"
