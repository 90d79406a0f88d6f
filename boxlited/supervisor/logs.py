"""Reading a box's console log: whole, its tail, or following it as it grows.

The box writes the log, so it is opened with care and read in bounded pieces. The daemon
holds no pipe: the shim owns the writing and the rotation. Nothing is read twice and, as long
as the rotation keeps it, nothing is left out, however the files move meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import trio

from boxlited.errors import StorageError
from boxlited.supervisor.directories import storage_error

CHUNK_BYTES = 65536
FOLLOW_SECONDS = 0.05
MAX_ROTATED = 100  # the most that the config lets the shim keep


class LogReader:
    """One reading of one box's log. `still_open` says whether more may come."""

    def __init__(self, path: Path, still_open: Callable[[], bool]) -> None:
        self._path = path
        self._still_open = still_open

    async def read(
        self, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the log in pieces of at most 64 KiB. Raises StorageError, ResourceExhausted.

        `tail` bounds it to the last lines; `since` (Unix seconds) leaves out rotated files
        that were last written before; `follow` goes on until the box has ended.
        """
        files = _open_all(self._path, since)
        try:
            if tail is not None:
                await _skip_to_tail(files, tail)
            while True:
                open_before = self._still_open()
                for chunk in _rest(files):
                    yield chunk
                    await trio.lowlevel.checkpoint()
                newer = _newer(self._path, files[0] if files else None) if follow else None
                if newer is not None:
                    files.append(newer)  # the older is read once more: to what came just before the rotation
                elif follow and open_before:
                    await trio.sleep(FOLLOW_SECONDS)
                else:
                    return
        finally:
            for file in files:
                file.close()


class _File:
    """One open file of the log, and how far it was read."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.position = 0
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def status(self) -> os.stat_result:
        return os.fstat(self._fd)

    def read(self) -> bytes:
        """The next piece; b"" at the end. A file that was cut goes on at its new end."""
        self.position = min(self.position, self.status().st_size)
        chunk = self.read_at(self.position, CHUNK_BYTES)
        self.position += len(chunk)
        return chunk

    def read_at(self, position: int, size: int) -> bytes:
        try:
            return os.pread(self._fd, size, position)
        except OSError as error:
            raise storage_error("read the console log", self.path, error) from error


def _open(path: Path) -> _File | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read the console log", path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(f"the console log {path} is not a regular file: it is not read")
    return _File(path, fd)


def _names(path: Path) -> Iterator[Path]:
    """The newest first: a file that a rotation moves meanwhile is met again, and never missed."""
    yield path
    for number in range(1, MAX_ROTATED + 1):
        yield path.with_name(f"{path.name}.{number}")


def _open_all(path: Path, since: float | None) -> list[_File]:
    """Every file of the log once, the oldest first."""
    found: list[_File] = []
    with ExitStack() as on_failure:
        for name in _names(path):
            file = _open(name)
            if file is None:
                continue
            status = file.status()
            is_stale = name != path and since is not None and status.st_mtime < since
            if is_stale or any(os.path.samestat(status, other.status()) for other in found):
                file.close()
                continue
            on_failure.callback(file.close)
            found.append(file)
        on_failure.pop_all()
    return found[::-1]


def _rest(files: list[_File]) -> Iterator[bytes]:
    """What is unread of all files; leaves only the last of them open."""
    while files:
        while chunk := files[0].read():
            yield chunk
        if len(files) == 1:
            return
        files.pop(0).close()


def _newer(path: Path, file: _File | None) -> _File | None:
    """The file that the rotation began after this one; None while this one is the newest."""
    mine = file.status() if file is not None else None
    others: list[_File] = []
    newer: _File | None = None
    try:
        for name in _names(path):
            other = _open(name)
            if other is None:
                continue
            others.append(other)
            if mine is not None and os.path.samestat(other.status(), mine):
                newer = others[-2] if len(others) > 1 else None
                return newer
        newer = _first_after(path, others, mine)
        return newer
    finally:
        for other in others:
            if other is not newer:
                other.close()


def _first_after(path: Path, others: list[_File], mine: os.stat_result | None) -> _File | None:
    """The rotation has dropped the file that was read: go on with the oldest that is younger than it."""
    younger = [other for other in others if mine is None or other.status().st_mtime_ns >= mine.st_mtime_ns]
    candidates = younger or [other for other in others if other.path == path]  # the clock was set back
    return candidates[-1] if candidates else None


async def _skip_to_tail(files: list[_File], lines: int) -> None:
    """Close what comes before the last `lines` lines, and set the first that is left to where they begin."""
    is_last_byte = True
    for index in reversed(range(len(files))):
        file = files[index]
        position = file.status().st_size
        while position > 0 and lines > 0:
            start = max(0, position - CHUNK_BYTES)
            block = file.read_at(start, position - start)
            end = len(block)
            if is_last_byte and block:
                is_last_byte = False
                end -= block.endswith(b"\n")  # the newline that ends the last line begins no further one
            count = block.count(b"\n", 0, end)
            if count < lines:
                lines -= count
                position = start
            else:
                for _ in range(lines):
                    end = block.rfind(b"\n", 0, end)
                lines = 0
                position = start + end + 1
            await trio.lowlevel.checkpoint()
        if lines <= 0:
            file.position = position
            while files[0] is not file:
                files.pop(0).close()
            return
