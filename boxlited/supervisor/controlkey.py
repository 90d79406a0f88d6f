"""The home's secret, from which each run's key is derived: a restarted daemon knows its shims' keys again.

Made once, 32 random bytes, 0600. It never leaves the daemon: a shim gets its own run's key in the sealed spec.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from boxlited.errors import StartupError
from boxlited.failpoints import hit

KEY_BYTES = 32
_EX_CANTCREAT = 73


def load_or_make(path: Path) -> bytes:
    """Raises StartupError when the file is there and cannot be used."""
    try:
        return _load(path) or _make(path)
    except OSError as error:
        raise StartupError(f"{path}: cannot be used: {error.strerror}", _EX_CANTCREAT) from error


def _load(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        key = os.read(fd, KEY_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(fd)
    if len(key) != KEY_BYTES:
        raise StartupError(
            f"{path} is not a key of {KEY_BYTES} bytes: put the right one back, or remove it"
            " (commands can then be run in a box only after its next start)",
            _EX_CANTCREAT,
        )
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise StartupError(f"{path} can be read by others: chown it to the daemon's user and chmod 600", _EX_CANTCREAT)
    return key


def _make(path: Path) -> bytes:
    """Durable before it is used: a key that is lost makes strangers of live shims."""
    key = secrets.token_bytes(KEY_BYTES)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, key)
        os.fsync(fd)
    finally:
        os.close(fd)
    hit("key.before_rename")
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return key
