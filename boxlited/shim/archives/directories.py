"""Directories as descriptors: opened one name at a time, never through a symbolic link.

A descriptor stays what it was when the box renames things meanwhile; a path does not.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PASS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
BATCH = 1024
_TOO_DEEP = 250  # of what a box may have put into a staging directory


@contextmanager
def closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def kind_at(name: bytes, parent: int) -> os.stat_result | None:
    """lstat; None when there is nothing. Raises OSError."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


class Cursor:
    """A way down from `root` that is kept open: the next place is often near the last one."""

    def __init__(self, root: int, make: bool) -> None:
        self._root = root
        self._make = make
        self._names: list[bytes] = []
        self._fds: list[int] = []

    def go(self, names: Sequence[bytes]) -> int:
        """The directory below the root, belonging to this cursor until the next call. Raises OSError."""
        common = 0
        while common < min(len(names), len(self._names)) and names[common] == self._names[common]:
            common += 1
        self._back(common)
        for name in names[common:]:
            self._fds.append(self._open(name, self._fds[-1] if self._fds else self._root))
            self._names.append(name)
        return self._fds[-1] if self._fds else self._root

    def _open(self, name: bytes, parent: int) -> int:
        try:
            return os.open(name, READ, dir_fd=parent)
        except FileNotFoundError:
            if not self._make:
                raise
        os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, READ, dir_fd=parent)
        try:
            os.fchmod(fd, 0o755)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _back(self, length: int) -> None:
        while len(self._fds) > length:
            self._names.pop()
            os.close(self._fds.pop())

    def close(self) -> None:
        self._back(0)


def batches(fd: int) -> Iterator[list[bytes]]:
    """Names of a directory while its caller takes them away: ends when nothing is left."""
    while True:
        names: list[bytes] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                names.append(os.fsencode(entry.name))
                if len(names) == BATCH:
                    break
        if not names:
            return
        yield names


def remove_tree(name: bytes, parent: int, depth: int = 0) -> None:
    """Deletes as much as can be deleted. Never raises OSError."""
    with suppress(OSError):
        info = kind_at(name, parent)
        if info is None:
            return
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        if depth < _TOO_DEEP:
            with closing(os.open(name, READ, dir_fd=parent)) as fd:
                _empty(fd, depth)
        os.rmdir(name, dir_fd=parent)


def _empty(fd: int, depth: int) -> None:
    while True:
        with os.scandir(fd) as entries:
            names = [os.fsencode(entry.name) for _, entry in zip(range(BATCH), entries, strict=False)]
        before = len(names)
        for name in names:
            remove_tree(name, fd, depth + 1)
        if not before or any(kind_at(name, fd) is not None for name in names):
            return  # empty, or what is left cannot be deleted
