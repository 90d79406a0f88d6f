"""What a guest does inside the box: takes its place at pipes or a terminal, and executes its command.

Runs in the box, without privileges, between fork and exec. Standard library only.
"""

import array
import errno
import fcntl
import os
import socket
import termios
from collections.abc import Sequence
from typing import NamedTuple

from boxlited.shim.engines.base import EngineError

MAX_ARGUMENT_BYTES = 2 << 20


class Command(NamedTuple):
    """What to execute. `directory` None: the box's own default was given by the engine."""

    argv: list[str]
    env: dict[str, str]
    directory: str
    tty: bool
    cols: int
    rows: int
    timeout_seconds: float | None

    @property
    def shown(self) -> str:
        return " ".join(self.argv)[:500]


def become(command: Command, stdio: Sequence[int], channel: socket.socket) -> None:
    """Execute it. Raises EngineError with what the user should know."""
    if command.tty:
        stdio = _open_terminal(command, channel)
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    try:
        os.chdir(command.directory)
    except OSError as error:
        raise EngineError(
            "config", f"working_dir {command.directory!r} cannot be entered in the box: {error.strerror}"
        ) from None
    _execute(command)


def _open_terminal(command: Command, channel: socket.socket) -> tuple[int, int, int]:
    """A terminal of the box's own; its master goes to the shim."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise EngineError("engine", f"the box has no terminal to give: {error.strerror}") from None
    fcntl.ioctl(slave, termios.TIOCSWINSZ, array.array("H", (command.rows, command.cols, 0, 0)))
    channel.sendmsg([b"pty"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return slave, slave, slave


def _execute(command: Command) -> None:
    """As a shell would look for it. Returns by EngineError only."""
    name = command.argv[0]
    directories = [""] if "/" in name else command.env.get("PATH", os.defpath).split(":")
    reason = errno.ENOENT
    for directory in directories:
        path = f"{directory}/{name}" if directory else name
        try:
            os.execve(path, command.argv, command.env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) and os.path.lexists(path):  # not: a closed directory
                reason = error.errno or errno.EIO
    raise EngineError("config", f"command {name!r} cannot be executed in the box: {os.strerror(reason)}")
