"""What the faults of a soak do to one process or one file, and what they must know of it before."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.integration.daemon_harness import is_alive
from tests.integration.leftovers import children


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def write(path: Path, content: bytes) -> None:
    """Through no link, and waiting at no FIFO, that was put there before. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def workload_of(shim: int) -> int | None:
    """The first process below bubblewrap's init, once it is another program than bubblewrap."""
    pid = shim
    for _ in range(3):
        below = children(pid)
        if not below:
            return None
        pid = below[0]
    with suppress(OSError):
        return None if "bwrap" in Path(f"/proc/{pid}/comm").read_text() else pid
    return None


def is_stopped(pid: int) -> bool:
    """Stop it: from then on it can end by no signal but SIGKILL, and by itself not at all. False: it was too late."""
    send(pid, signal.SIGSTOP)
    end = time.monotonic() + 1.0
    while time.monotonic() < end and is_alive(pid):
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return True
        time.sleep(0.001)
    return False
