"""The input of an execution on its way: a bounded queue before a pipe or a terminal that takes what it can.

Standard library only.
"""

import os
import select
from collections import deque
from collections.abc import Callable

from boxlited.shim.loop import Loop

MAX_QUEUED = 256 * 1024
WRITE_BYTES = 64 * 1024


class Stdin:
    """Owns its descriptor. `eof`: what says the end where closing does not, as on a terminal."""

    def __init__(self, loop: Loop, fd: int, eof: bytes | None = None) -> None:
        self._loop = loop
        self._fd = fd
        self._eof = eof
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._ending = False
        self._waiting = False
        self._mid_line = False
        self.received = 0  # bytes, from the beginning
        self.drained: Callable[[], None] | None = None  # called whenever some of it was taken

    @property
    def is_full(self) -> bool:
        return self._queued > MAX_QUEUED

    @property
    def taken(self) -> int:
        """Of `received`: what the command took, or never will."""
        return self.received - self._queued

    def write(self, data: bytes) -> None:
        """What comes after its end, or after the command's, is dropped."""
        self.received += len(data)
        if self._fd < 0 or self._ending or not data:
            self._say_drained()
            return
        self._mid_line = data[-1:] != b"\n"
        self._queue.append(memoryview(data))
        self._queued += len(data)
        self._flush()

    def end(self) -> None:
        if self._ending or self._fd < 0:
            return
        if self._eof is not None:
            said = self._eof * 2 if self._mid_line else self._eof  # the first one only ends the line
            self.write(said)
            self.received -= len(said)
            self._mid_line = False
        else:
            self._ending = True
            self._flush()

    def close(self) -> None:
        """Nobody reads any more."""
        if self._fd >= 0:
            self._wait(False)
            os.close(self._fd)
            self._fd = -1
        self._queue.clear()
        self._queued = 0
        self._say_drained()

    def _flush(self, _events: int = 0) -> None:
        try:
            while self._queue:
                written = os.write(self._fd, self._queue[0][:WRITE_BYTES])
                self._queued -= written
                self._queue[0] = self._queue[0][written:]
                if not self._queue[0]:
                    self._queue.popleft()
        except BlockingIOError:
            self._wait(True)
            self._say_drained()
            return
        except OSError:  # it has closed its input
            self.close()
            return
        self._wait(False)
        if self._ending:
            self.close()
        self._say_drained()

    def _wait(self, wanted: bool) -> None:
        if wanted and not self._waiting:
            self._loop.watch(self._fd, select.POLLOUT, self._flush)
        elif not wanted and self._waiting:
            self._loop.forget(self._fd)
        self._waiting = wanted

    def _say_drained(self) -> None:
        if self.drained is not None:
            self.drained()
