"""Commands of a shim that run here and not in a box. Holds no tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from boxlited.shim.executions import Execution
from boxlited.shim.guest import Command
from boxlited.shim.loop import Loop
from tests.unit.shim_support import turn_until


def command(script: str, **fields: Any) -> Command:
    rest = {"env": {}, "directory": "/", "tty": False, "cols": 80, "rows": 24, "timeout_seconds": None, **fields}
    return Command(argv=["/bin/sh", "-c", script], **rest)


@contextmanager
def executing(loop: Loop, script: str, **fields: Any) -> Iterator[Execution]:
    """A command as it is behind its birth. What it leaves behind is killed."""
    execution = Execution("exec-1", command(script, **fields), loop)
    ours: list[int] = []
    theirs: list[int] = []
    execution._open_pipes(ours, theirs)
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(theirs)]
    pid = os.posix_spawn("/bin/sh", execution.command.argv, dict(os.environ), file_actions=actions, setsid=True)
    for fd in theirs:
        os.close(fd)
    execution._live(pid, ours, None)
    try:
        yield execution
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        turn_until(loop, lambda: execution.exit_code is not None, "the command ends")
        for fd in list(execution._outputs):
            execution._close_output(fd)
