"""Standard streams that cannot hurt: never missing, never blocking, never an error.

A log that cannot be written is not the daemon's or a box's problem: who reads it may be gone,
slow or out of disk, and every box is supervised all the same. Standard library only.
"""

from __future__ import annotations

import os
import select
import sys

STDERR = 2
PATIENCE_MS = 50  # for a reader that is a little behind; one that is stuck costs this only once
PIECE_BYTES = 4096  # PIPE_BUF: a pipe or socket that is ready takes as much without blocking


class LossyStream:
    """Text to a descriptor, without failing or waiting for long. What was lost is counted and said."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ready = select.poll()
        self._ready.register(fd, select.POLLOUT)
        self._is_torn = False
        self.lost = 0

    def write(self, text: str) -> None:
        """One whole line."""
        notice = f'{self._seam}{{"event": "lines of this log were lost", "lost": {self.lost}}}\n'
        if self.lost and not self._wrote(notice):
            self.lost += 1
            return
        self.lost = 0
        if not self._wrote(self._seam + text):
            self.lost = 1

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def _seam(self) -> str:
        """Ends a line that was cut."""
        return "\n" if self._is_torn else ""

    def _wrote(self, text: str) -> bool:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        written = 0
        try:
            while written < len(data) and self._ready.poll(0 if self.lost else PATIENCE_MS):
                written += os.write(self._fd, data[written : written + PIECE_BYTES])
        except OSError:  # EPIPE, ENOSPC, EIO: there is no one left to tell
            pass
        if written:
            self._is_torn = written < len(data)
        return written == len(data)


def say_error(message: str) -> None:
    """The last words of a program that cannot start, if anyone hears them."""
    LossyStream(STDERR).write(f"{message}\n")


def open_standard_streams() -> None:
    """Descriptors 0 to 2 on /dev/null where whoever started us closed them.

    Otherwise the next file that is opened, the lock or the database, would be what others read
    and write as standard streams. Call before anything is opened.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(fd, True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
