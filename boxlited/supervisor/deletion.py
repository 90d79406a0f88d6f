"""Deletes a tree that a box filled, whatever it made of it.

A box may nest directories thousands deep and take every permission off them. So nothing here
recurses, holds one descriptor for each level, builds a long path, or follows a link: each
directory is made passable, its subdirectories are moved up beside the tree, and they wait
there for their turn. Blocking; what cannot be deleted stays and is said.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

import structlog

BATCH = 1000

log = structlog.get_logger()


def delete_tree(parent: str, name: str, moved_prefix: str) -> bool:
    """Delete directory `name` in `parent`; True when nothing is left of it.

    `moved_prefix` begins the names of what is moved up: an interrupted deletion is taken up
    by whoever deletes names that begin so.
    """
    with _opened(parent) as parent_fd:
        waiting = [name]
        left = False
        while waiting:
            one = waiting.pop()
            try:
                _empty(parent_fd, one, moved_prefix, waiting)
                os.rmdir(one, dir_fd=parent_fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                left = True
                log.warning("a directory could not be deleted", parent=parent, name=one, error=error.strerror)
    return not left


def _empty(parent_fd: int, name: str, moved_prefix: str, waiting: list[str]) -> None:
    """Unlink the files of a directory and move its subdirectories up; their new names go to `waiting`."""
    with _opened(name, parent_fd) as fd:
        while True:
            with os.scandir(fd) as entries:
                batch = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, BATCH)]
            if not batch:
                return
            for entry, is_directory in batch:
                with suppress(FileNotFoundError):  # another thread deletes here too
                    if is_directory:
                        waiting.append(_move_up(fd, entry, parent_fd, moved_prefix))
                    else:
                        os.unlink(entry, dir_fd=fd)


def _move_up(fd: int, entry: str, parent_fd: int, moved_prefix: str) -> str:
    new = f"{moved_prefix}{secrets.token_hex(8)}"
    with _opened(entry, fd):  # made passable: a move rewrites its `..`
        os.rename(entry, new, src_dir_fd=fd, dst_dir_fd=parent_fd)
    return new


@contextmanager
def _opened(name: str, parent_fd: int | None = None) -> Iterator[int]:
    """A directory for reading and writing, its permissions set so that its owner may."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name, os.O_PATH | flags, dir_fd=parent_fd)
    try:
        if parent_fd is not None:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
    try:
        yield fd
    finally:
        os.close(fd)
