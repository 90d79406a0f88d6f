"""Reading a box's console log: whole, its tail, or following it as it grows.

The box writes the log, so it is opened with care and read in bounded pieces. The daemon
holds no pipe: the shim owns the writing and the rotation.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import trio

from boxlited.errors import StorageError

CHUNK_BYTES = 65536
FOLLOW_SECONDS = 0.05


class LogReader:
    """One reading of one box's log. `still_open` says whether more may come."""

    def __init__(self, path: Path, still_open: Callable[[], bool]) -> None:
        self._path = path
        self._still_open = still_open

    async def read(
        self, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the log in pieces of at most 64 KiB.

        `tail` bounds it to the last lines; `since` (Unix seconds) leaves out rotated files
        that were last written before; `follow` goes on until the box has ended.
        """
        fd = _open(self._path)
        position = 0
        try:
            if tail is None:
                for older in _rotated(self._path, since):
                    async for chunk in _whole(older):
                        yield chunk
            elif fd is not None:
                position = _tail_position(fd, tail)
            while True:
                open_before = self._still_open()
                if fd is None:
                    fd = _open(self._path)
                while fd is not None:
                    chunk = os.pread(fd, CHUNK_BYTES, position)
                    if not chunk:
                        break
                    position += len(chunk)
                    yield chunk
                    await trio.lowlevel.checkpoint()
                if not follow or not open_before:
                    return
                fd, position = _reopened(self._path, fd, position)
                await trio.sleep(FOLLOW_SECONDS)
        finally:
            if fd is not None:
                os.close(fd)


def _open(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read the console log {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(f"the console log {path} is not a regular file: it is not read")
    return fd


def _reopened(path: Path, fd: int | None, position: int) -> tuple[int | None, int]:
    """After a rotation go on with the new file, once the old one is read to its end."""
    if fd is None:
        return None, position
    try:
        current, mine = os.lstat(path), os.fstat(fd)
    except FileNotFoundError:
        return fd, position
    if (current.st_dev, current.st_ino) == (mine.st_dev, mine.st_ino):
        return fd, min(position, mine.st_size)
    if mine.st_size > position:
        return fd, position
    os.close(fd)
    return _open(path), 0


def _rotated(path: Path, since: float | None) -> list[Path]:
    """Older files, oldest first."""
    found: list[tuple[int, Path]] = []
    for entry in path.parent.glob(f"{path.name}.*"):
        suffix = entry.name[len(path.name) + 1 :]
        if suffix.isdigit() and (since is None or entry.lstat().st_mtime >= since):
            found.append((int(suffix), entry))
    return [entry for _, entry in sorted(found, reverse=True)]


async def _whole(path: Path) -> AsyncGenerator[bytes, None]:
    fd = _open(path)
    if fd is None:
        return
    try:
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
            await trio.lowlevel.checkpoint()
    finally:
        os.close(fd)


def _tail_position(fd: int, lines: int) -> int:
    """Where the last `lines` lines begin."""
    position = os.fstat(fd).st_size
    if lines <= 0:
        return position
    wanted = lines
    last = True
    while position > 0:
        start = max(0, position - CHUNK_BYTES)
        block = os.pread(fd, position - start, start)
        end = len(block)
        if last and block.endswith(b"\n"):
            end -= 1  # the newline that ends the last line begins no further one
        last = False
        while (at := block.rfind(b"\n", 0, end)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + at + 1
            end = at
        position = start
    return 0
