"""Moves a finished tree into place: checked first, then by renames, undone when one of them fails.

A directory that is there already is kept as it is and filled; whatever else is there is replaced,
or the transfer refused. A link of the box is never followed. SIGKILL in the midst of the renames
leaves every file whole, old or new.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from boxlited.shim.archives.directories import READ, Cursor, batches, closing, kind_at, remove_tree
from boxlited.shim.archives.refusal import ArchiveRefused, failed, shown
from boxlited.shim.archives.staging import Staging

CREATED = 2**64 - 1  # in place of the number under which a replaced file is kept
LOST = 2**64 - 2  # replaced, and it could not be kept
OTHER_DEVICE = "is on another file system in the box, perhaps a volume: send what goes there by itself"

Names = tuple[bytes, ...]


class Merge:
    """`top` is the finished tree, `base` the directory that it goes into."""

    def __init__(self, staging: Staging, top: int, base: int, overwrite: bool) -> None:
        self._staging = staging
        self._top = top
        self._base = base
        self._overwrite = overwrite
        self._device = os.fstat(base).st_dev
        self._replaced = 0

    def check(self) -> None:
        """Refuses whatever cannot be put in place. Changes nothing."""
        self._check(self._top, self._base, ())

    def _check(self, source: int, target: int, trail: Names) -> None:
        with os.scandir(source) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                there = kind_at(name, target)
                if there is None:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    self._check_directory((*trail, name), there)
                    with _both(name, source, target) as (below, into):
                        self._check(below, into, (*trail, name))
                else:
                    self._check_leaf((*trail, name), there)

    def _check_directory(self, names: Names, there: os.stat_result) -> None:
        if not stat.S_ISDIR(there.st_mode):
            raise _taken(names, f"is a {_word(there)} in the box, and a directory in the archive")
        if there.st_dev != self._device:
            raise _elsewhere(names)

    def _check_leaf(self, names: Names, there: os.stat_result) -> None:
        if stat.S_ISDIR(there.st_mode):
            raise _taken(names, "is a directory in the box, and none in the archive")
        if not self._overwrite:
            raise _taken(names, "exists in the box: allow overwrite, or remove it first")
        if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
            raise _taken(names, f"is a {_word(there)} in the box, which is not replaced")

    def commit(self) -> None:
        """Puts all in place. Raises OSError or ArchiveRefused, and then all is as before."""
        try:
            self._move(self._top, self._base, ())
        except BaseException:
            self._undo()
            raise

    def _move(self, source: int, target: int, trail: Names) -> None:
        for names in batches(source):
            for name in names:
                try:
                    self._put(name, source, target, (*trail, name))
                except OSError as error:
                    if error.errno == errno.EXDEV:  # a bind mount has the same device number
                        raise _elsewhere((*trail, name)) from None
                    raise failed("putting in place", b"/".join((*trail, name)), error) from None

    def _put(self, name: bytes, source: int, target: int, names: Names) -> None:
        info, there = os.stat(name, dir_fd=source, follow_symlinks=False), kind_at(name, target)
        is_directory = stat.S_ISDIR(info.st_mode)
        if there is None:
            self._staging.moves.add(names, CREATED, inode=info.st_ino)
            self._create(name, source, target, is_directory)
        elif is_directory:
            self._check_directory(names, there)
            with _both(name, source, target) as (below, into):
                self._move(below, into, names)
            os.rmdir(name, dir_fd=source)
        else:
            self._check_leaf(names, there)
            self._replace(name, source, target, names, info.st_ino)

    def _replace(self, name: bytes, source: int, target: int, names: Names, inode: int) -> None:
        """In one step: at every moment the old file is there, or the new one."""
        self._replaced += 1
        kept = b"%d" % self._replaced
        number = self._replaced
        try:
            os.link(name, kept, src_dir_fd=target, dst_dir_fd=self._staging.old, follow_symlinks=False)
        except OSError:  # not every file system has hard links, and not every file may be linked
            number = LOST
        self._staging.moves.add(names, number, inode=inode)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

    def _create(self, name: bytes, source: int, target: int, is_directory: bool) -> None:
        """A file by a link where nothing may be overwritten: it fails when something came meanwhile."""
        if not self._overwrite and not is_directory:
            try:
                os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except FileExistsError:
                raise
            except OSError:
                pass
            else:
                os.unlink(name, dir_fd=source)
                return
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

    def _undo(self) -> None:
        """Takes back what was put in place, as far as the box lets it."""
        for name in self._staging.trees:  # on a full disk the notes need its room
            remove_tree(name, self._staging.fd)
        cursor = Cursor(self._base, make=False)
        try:
            for index, note in enumerate(self._staging.moves.backwards()):
                with suppress(OSError):
                    parent, name = cursor.go(note.names[:-1]), note.names[-1]
                    there = kind_at(name, parent)
                    if there is None or there.st_ino != note.inode:
                        continue  # a note is written before its step: this one was not made
                    if note.number == CREATED:
                        os.rename(name, b"new%d" % index, src_dir_fd=parent, dst_dir_fd=self._staging.old)
                    elif note.number != LOST:
                        kept = b"%d" % note.number
                        os.rename(kept, name, src_dir_fd=self._staging.old, dst_dir_fd=parent)
        finally:
            cursor.close()

    def settle(self, prefix: Names) -> None:
        """Modes and times of the directories that are ours; those that were there keep theirs."""
        cursor = Cursor(self._base, make=False)
        try:
            for note in self._staging.directories.backwards():
                with suppress(OSError):  # the box may have changed it meanwhile
                    fd = cursor.go((*prefix, *note.names))
                    if os.fstat(fd).st_ino == note.inode:
                        os.utime(fd, ns=(note.mtime_ns, note.mtime_ns))
                        os.fchmod(fd, note.mode)
        finally:
            cursor.close()


@contextmanager
def _both(name: bytes, source: int, target: int) -> Iterator[tuple[int, int]]:
    with closing(os.open(name, READ, dir_fd=source)) as below, closing(os.open(name, READ, dir_fd=target)) as into:
        yield below, into


def _elsewhere(names: Names) -> ArchiveRefused:
    return ArchiveRefused("invalid_argument", f"{shown(b'/'.join(names))} {OTHER_DEVICE}")


def _taken(names: Names, why: str) -> ArchiveRefused:
    return ArchiveRefused("already_exists", f"{shown(b'/'.join(names))} {why}")


def _word(info: os.stat_result) -> str:
    kinds = (
        (stat.S_ISREG, "file"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
    )
    return next((word for test, word in kinds if test(info.st_mode)), "device")
