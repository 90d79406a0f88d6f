"""One daemon per home: an flock on `boxlited.lock`, held by the daemon and its spawner.

The spawner shares the lock so that a new daemon gets it only after every fork in flight has
written its shim.pid. A second daemon is refused at once and touches nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

import structlog

from boxlited.errors import StartupError, StorageError
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.pidfile import PidRecord

EX_CANTCREAT = 73
LINGER_SECONDS = 10.0

log = structlog.get_logger()


def acquire(path: Path, kernel: KernelProtocol) -> int:
    """Take the lock; returns its descriptor, which must stay open for the daemon's life.

    Waits a bounded time only for the spawner of a dead daemon. Raises StartupError, exit code 73.
    """
    give_up = time.monotonic() + LINGER_SECONDS
    while True:
        fd = _open(path)
        try:
            _wait(fd, path, kernel, give_up)
            if _is_at(fd, path):
                _sign(fd)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the file was replaced while we waited: a lock on it keeps nobody out


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise StartupError(f"cannot open the lock of the home, {path}: {error.strerror}", EX_CANTCREAT) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StartupError(f"the lock of the home, {path}, is not a regular file: move it away", EX_CANTCREAT)
    return fd


def _wait(fd: int, path: Path, kernel: KernelProtocol, give_up: float) -> None:
    while not _try_lock(fd, path):
        holder = _live_holder(fd, kernel)
        if holder is not None or time.monotonic() > give_up:
            raise StartupError(_refusal(path, holder), EX_CANTCREAT)
        time.sleep(0.005)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _sign(fd: int) -> None:
    """Say who holds it, for the message to a second daemon. Without space it is held all the same."""
    data = PidRecord.current().encode()
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    except OSError as error:
        log.warning("the lock is held, but not signed", error=str(error))


def _try_lock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StartupError(
            f"cannot lock {path}: {error.strerror}; is it on a file system with locks?", EX_CANTCREAT
        ) from error
    return True


def _live_holder(fd: int, kernel: KernelProtocol) -> int | None:
    """The pid of the daemon that wrote the lock file, if it is proven to live."""
    try:
        record = PidRecord.decode(os.pread(fd, 256, 0))
        seen = kernel.proc_stat(record.pid)
    except (StorageError, OSError):
        return None
    if seen.start_time != record.start_time or seen.state in ("Z", "X"):
        return None
    return record.pid


def _refusal(path: Path, holder: int | None) -> str:
    who = f"pid {holder}" if holder is not None else "a process that does not end"
    return (
        f"another boxlited ({who}) already serves the home {path.parent}: use that one, or give this one"
        " its own --home and --socket"
    )
