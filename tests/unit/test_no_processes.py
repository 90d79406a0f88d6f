"""The guard of the unit tests: whatever starts a process is stopped, and nothing that swallows this hides it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio

from tests.unit.no_processes import GUARD, MESSAGE, STARTS, NoProcesses

FAILED = pytest.fail.Exception


def fork(how: Callable[[], int]) -> None:
    """Were there no guard, the child must not go on with the tests."""
    pid = how()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def run() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


WAYS = [
    ("subprocess.Popen", run),
    ("os.posix_spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})),
    ("os.posix_spawn", lambda: os.posix_spawnp("true", ["true"], {})),
    ("os.fork", lambda: fork(os.fork)),
    ("os.fork", lambda: os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", ""])),
    ("os.forkpty", lambda: fork(lambda: os.forkpty()[0])),
    ("os.exec", lambda: os.execv("/no/such/program", ["program"])),
    ("os.system", lambda: os.system("true")),
]


@pytest.mark.parametrize(("event", "start"), WAYS, ids=range(len(WAYS)))
def test_each_way_to_start_a_process_is_stopped_and_says_where_to_go(event: str, start: Callable[[], object]) -> None:
    with pytest.raises(FAILED, match=MESSAGE):
        start()
    assert GUARD.forget() == [event]


def test_no_way_is_left_out() -> None:
    assert {event for event, _ in WAYS} == STARTS


async def test_a_start_in_another_thread_is_stopped() -> None:
    with pytest.raises(FAILED, match=MESSAGE):
        await trio.run_process([sys.executable, "-c", ""])
    assert GUARD.forget() == ["subprocess.Popen"]


@pytest.mark.parametrize("error", [None, OSError])
def test_what_swallowed_the_failure_fails_at_the_end(error: type[Exception] | None) -> None:
    def swallow() -> None:
        with GUARD.on():
            with suppress(FAILED):
                run()
            if error is not None:
                raise error

    with pytest.raises(FAILED, match=MESSAGE):
        swallow()


def test_a_fork_by_a_system_call_of_its_own_is_told() -> None:
    ctypes.pythonapi.PyOS_BeforeFork()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    assert GUARD.forget() == ["a fork"]


def test_outside_of_unit_tests_it_is_deaf() -> None:
    guard = NoProcesses()
    with guard.on():
        pass
    guard.hear("os.fork", ())
    guard.fork()
    assert guard.forget() == []
