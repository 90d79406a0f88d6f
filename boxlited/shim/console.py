"""The console log: workload output to a file that is rotated and bounded by the shim itself.

The daemon holds no pipe, so its death never gives the workload a SIGPIPE. A full disk loses
output, says how much, and never blocks the workload.
"""

import os

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Console:
    """Reads the pipe, writes `path`; at `max_bytes` the file becomes `path.1`, and so on up to `keep`."""

    __slots__ = ("_fd", "_keep", "_lost", "_max_bytes", "_path", "_size")

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._lost = 0
        self._fd = -1
        self._size = 0
        self._open()

    def _open(self, how: int = 0) -> None:
        self._fd, self._size = -1, 0
        try:
            self._fd = os.open(self._path, APPEND | how, 0o600)
            self._size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            pass  # a full disk, or somebody removed the directory: tried again at the next write

    def pump(self, pipe: int) -> bool:
        """Move what is in the pipe to the file. False at the end of the pipe."""
        for _ in range(16):  # bounded, so that signals are not starved by a chatty workload
            try:
                data = os.read(pipe, 65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.write(data)
        return True

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), self._max_bytes):
            self._write(data[start : start + self._max_bytes])

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            self._open()
        elif self._size + len(data) > self._max_bytes and self._size > 0:
            self._rotate()
        if self._lost:
            self._put(b"[boxlited: %d bytes of output were lost]\n" % self._lost, marker=True)
        self._put(data)

    def _put(self, data: bytes, marker: bool = False) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError:
            written = 0
        self._size += written
        if marker:
            if written == len(data):
                self._lost = 0
        else:
            self._lost += len(data) - written

    def _rotate(self) -> None:
        os.close(self._fd)
        how = 0
        try:
            if self._keep == 0:
                os.unlink(self._path)
            for number in range(self._keep, 0, -1):
                older = self._path if number == 1 else f"{self._path}.{number - 1}"
                if os.path.lexists(older):
                    os.rename(older, f"{self._path}.{number}")
        except OSError:
            how = os.O_TRUNC  # the bound comes first: what cannot be moved out of the way goes
        self._open(how)
