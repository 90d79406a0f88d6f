"""Between the fork of a guest and the moment when its program runs, or cannot. Standard library only."""

import os
import select
import signal
import socket
from collections.abc import Callable

from boxlited.shim.engines.base import EngineError
from boxlited.shim.enter import receive_fd
from boxlited.shim.loop import Loop

BIRTH_SECONDS = 20.0  # a process of the box may stop a guest before its exec; it must not stay for ever
Born = Callable[[int, int | None, EngineError | None], None]


class Birth:
    """Calls `born(pid, terminal, error)` once. Without an error the guest is a child of ours and not reaped."""

    def __init__(self, entrant: int, channel: int, born: Born, loop: Loop) -> None:
        self._entrant = entrant
        self._channel = socket.socket(fileno=channel)
        self._born = born
        self._loop = loop
        self._pid = 0
        self._terminal: int | None = None
        self._error: EngineError | None = None
        self._deadline = loop.after(BIRTH_SECONDS, self._give_up)
        loop.watch(channel, select.POLLIN, self._on_message)

    def _on_message(self, _events: int) -> None:
        try:
            while True:
                data, fd = receive_fd(self._channel)
                if fd is not None:
                    self._terminal = fd
                if not data:
                    break
                self._hear(data)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end()

    def _give_up(self) -> None:
        """Neither was reaped: their numbers are their own. The guest is our child once its entrant has ended."""
        self._error = EngineError("engine", f"the command did not run within {BIRTH_SECONDS:g} s: it was killed")
        for pid in (self._entrant, self._pid):
            if pid > 1:
                os.kill(pid, signal.SIGKILL)

    def _hear(self, data: bytes) -> None:
        word, _, rest = data.partition(b" ")
        if word == b"pid":
            self._pid = int(rest)
        elif word == b"error" and self._error is None:
            kind, _, text = rest.decode("utf-8", "replace").partition(" ")
            self._error = EngineError(kind, text)

    def _end(self) -> None:
        """The channel has ended: the entrant is gone, and the guest runs its program or is gone."""
        self._loop.forget(self._channel.fileno())
        self._channel.close()
        self._deadline.cancel()
        os.waitpid(self._entrant, 0)  # only now is the guest our child
        if self._pid == 0 and self._error is None:
            self._error = EngineError("engine", "the command was killed before it ran")
        if self._pid and self._error is not None:
            os.waitpid(self._pid, 0)
        self._born(self._pid, self._terminal, self._error)
