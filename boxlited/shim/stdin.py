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
        self.drained: Callable[[], None] | None = None  # called once there is room again

    @property
    def is_full(self) -> bool:
        return self._queued > MAX_QUEUED

    def write(self, data: bytes) -> None:
        """What comes after its end, or after the command's, is dropped."""
        if self._fd < 0 or self._ending or not data:
            return
        self._queue.append(memoryview(data))
        self._queued += len(data)
        self._flush()

    def end(self) -> None:
        if self._ending or self._fd < 0:
            return
        if self._eof is not None:
            self._queue.append(memoryview(self._eof))
            self._queued += len(self._eof)
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
        if not self.is_full and self.drained is not None:
            self.drained()
