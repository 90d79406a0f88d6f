"""Who else could write where the daemon trusts what it reads: looked at once, before anything is touched.

Whoever can write to the home, to the directory of a socket, or to the config can do what the daemon's user
can. Changes nothing; raises StartupError with exit code 77 (EX_NOPERM), saying what to do.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from boxlited.errors import StartupError

EX_NOPERM = 77


def check_home(home: Path) -> None:
    """The home and what lies directly in it. What is not there yet is no problem."""
    _check_way(home)
    seen = _look(home)
    if seen is None:
        return
    if not stat.S_ISDIR(seen.st_mode):
        return  # said with better words where it is used
    _check(home, seen, "the home")
    try:
        names = sorted(os.listdir(home))
    except OSError as error:
        raise StartupError(f"cannot use the home {home}: {error.strerror}", EX_NOPERM) from error
    for name in names:
        path = home / name
        inner = _look(path)
        if inner is not None and not stat.S_ISLNK(inner.st_mode):
            _check(path, inner, "the home's")


def check_config_file(path: Path) -> None:
    """A config names programs that the daemon executes."""
    seen = _look(path, follow=True)
    if seen is not None and stat.S_ISREG(seen.st_mode):  # /dev/null is nobody's
        _check(path, seen, "the config", also_root=True)


def check_socket_directory(directory: Path) -> None:
    """Whoever can rename in it can put a socket of their own in the daemon's place."""
    seen = _look(directory, follow=True)
    if seen is not None and not seen.st_mode & stat.S_ISVTX:
        _check(directory, seen, "the socket's directory", also_root=True)


def _check_way(path: Path) -> None:
    """Nobody may exchange a directory on the way to it."""
    for parent in path.parents:
        seen = _look(parent, follow=True)
        if seen is not None and seen.st_mode & stat.S_IWOTH and not seen.st_mode & stat.S_ISVTX:
            raise StartupError(
                f"everybody can write to {parent}, and so exchange {path}: chmod o-w it, or choose another --home",
                EX_NOPERM,
            )


def _check(path: Path, seen: os.stat_result, what: str, *, also_root: bool = False) -> None:
    me = os.geteuid()
    if seen.st_uid != me and not (also_root and seen.st_uid == 0):
        raise StartupError(
            f"{what} {path} belongs to uid {seen.st_uid}, and this is uid {me}: give it to this user with chown,"
            " or choose another",
            EX_NOPERM,
        )
    if _others_can_write(seen):
        raise StartupError(
            f"others can write to {what} {path} (mode {stat.S_IMODE(seen.st_mode):04o}):"
            " look at what they may have changed, then chmod go-w it",
            EX_NOPERM,
        )


def _others_can_write(seen: os.stat_result) -> bool:
    """A group that has its user's number is that user's own, by the convention of every distribution."""
    own_group = seen.st_gid == seen.st_uid
    return bool(seen.st_mode & (stat.S_IWOTH if own_group else stat.S_IWOTH | stat.S_IWGRP))


def _look(path: Path, *, follow: bool = False) -> os.stat_result | None:
    try:
        return path.stat() if follow else path.lstat()
    except OSError:
        return None  # its user says what is wrong with it
