"""One daemon per home: an flock on `boxlited.lock`, held by the daemon and its spawner.

The spawner shares the lock so that a new daemon gets it only after every fork in flight has
written its shim.pid. A second daemon is refused at once and touches nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from boxlited.errors import StartupError, StorageError
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.pidfile import PidRecord

EX_CANTCREAT = 73
LINGER_SECONDS = 10.0


def acquire(path: Path, kernel: KernelProtocol) -> int:
    """Take the lock; returns its descriptor, which must stay open for the daemon's life.

    Waits a bounded time only for the spawner of a dead daemon. Raises StartupError, exit code 73.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    give_up = time.monotonic() + LINGER_SECONDS
    while not _try_lock(fd):
        holder = _live_holder(fd, kernel)
        if holder is not None or time.monotonic() > give_up:
            os.close(fd)
            raise StartupError(_refusal(path, holder), EX_CANTCREAT)
        time.sleep(0.005)
    os.ftruncate(fd, 0)
    os.pwrite(fd, PidRecord.current().encode(), 0)
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _live_holder(fd: int, kernel: KernelProtocol) -> int | None:
    """The pid of the daemon that wrote the lock file, if it is proven to live."""
    try:
        record = PidRecord.decode(os.pread(fd, 256, 0))
        stat = kernel.proc_stat(record.pid)
    except (StorageError, OSError):
        return None
    if stat.start_time != record.start_time or stat.state in ("Z", "X"):
        return None
    return record.pid


def _refusal(path: Path, holder: int | None) -> str:
    who = f"pid {holder}" if holder is not None else "a process that does not end"
    return (
        f"another boxlited ({who}) already serves the home {path.parent}: use that one, or give this one"
        " its own --home and --socket"
    )
