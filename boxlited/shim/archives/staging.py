"""The hidden directory in which a transfer is built before anybody can see it.

It lies in the directory that the transfer changes, so what is ready is moved by renames. Its owner
holds a lock on it, which the kernel takes back when the owner dies: a sweep deletes only what
nobody holds. `old` keeps what was replaced until all is in place.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from boxlited.shim.archives.directories import READ, closing, remove_tree
from boxlited.shim.archives.tarstream import STAGING_PREFIX

ATTEMPTS = 16
_RECORD = struct.Struct("<QqQHI")  # of a note; its path stands before it


class Note(NamedTuple):
    names: tuple[bytes, ...]
    number: int
    mtime_ns: int
    inode: int
    mode: int


class Notes:
    """An unnamed file of notes, read from the last to the first: memory stays flat whatever an archive holds."""

    def __init__(self, directory: int) -> None:
        name = b"notes"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        os.unlink(name, dir_fd=directory)
        self._file: BinaryIO = os.fdopen(fd, "w+b")

    def add(self, names: tuple[bytes, ...], number: int = 0, mtime_ns: int = 0, inode: int = 0, mode: int = 0) -> None:
        path = b"/".join(names)
        self._file.write(path + _RECORD.pack(number, mtime_ns, inode, mode, len(path)))

    def backwards(self) -> Iterator[Note]:
        self._file.flush()
        end, fd = self._file.tell(), self._file.fileno()
        while end:
            end -= _RECORD.size
            number, mtime_ns, inode, mode, length = _RECORD.unpack(os.pread(fd, _RECORD.size, end))
            end -= length
            path = os.pread(fd, length, end)
            yield Note(tuple(path.split(b"/")) if path else (), number, mtime_ns, inode, mode)

    def close(self) -> None:
        with suppress(OSError):  # a full disk: what was to be written is not needed any more
            self._file.close()


class Staging:
    """`tree` is where entries are unpacked, `ready` where the finished tree gets its place, `old` where
    replaced files wait. Use as a context manager."""

    trees = (b"tree", b"ready")

    def __init__(self, base: int) -> None:
        self._base = base
        self._name, self.fd = _create(base)
        self._open: list[int] = [self.fd]
        try:
            self.tree, self.ready = map(self._directory, self.trees)
            self.old = self._directory(b"old")
            self.directories, self.moves = Notes(self.fd), Notes(self.fd)
        except BaseException:
            self._leave()
            raise

    def _directory(self, name: bytes) -> int:
        os.mkdir(name, 0o700, dir_fd=self.fd)
        fd = os.open(name, READ, dir_fd=self.fd)
        self._open.append(fd)
        return fd

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *_: object) -> None:
        self.directories.close()
        self.moves.close()
        self._leave()

    def _leave(self) -> None:
        remove_tree(self._name, self._base)
        for fd in self._open:
            os.close(fd)


def _create(base: int) -> tuple[bytes, int]:
    """A new directory and its locked descriptor. Raises OSError."""
    for _ in range(ATTEMPTS):
        name = STAGING_PREFIX + os.urandom(8).hex().encode()
        os.mkdir(name, 0o700, dir_fd=base)
        with suppress(FileNotFoundError, BlockingIOError):  # a sweep was faster than the lock
            fd = os.open(name, READ, dir_fd=base)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(name, dir_fd=base, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
                    return name, fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    raise FileExistsError(17, "no staging directory can be kept")


def sweep(base: int) -> None:
    """Deletes the staging directories that dead transfers left in a directory. Never raises OSError."""
    with suppress(OSError), closing(os.open(b".", READ, dir_fd=base)) as fd:
        with os.scandir(fd) as entries:
            found = [os.fsencode(entry.name) for entry in entries if os.fsencode(entry.name).startswith(STAGING_PREFIX)]
        for name in found:
            _sweep_one(name, fd)


def _sweep_one(name: bytes, parent: int) -> None:
    with suppress(OSError), closing(os.open(name, READ, dir_fd=parent)) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(name, parent)
