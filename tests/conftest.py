"""For every test: signals as a terminal would have them, whoever started the run; where files of tests lie; no property
fails because the machine is busy."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

from hypothesis import settings

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
UNSAFE = os.ST_NOEXEC | os.ST_RDONLY


def pytest_configure() -> None:
    """A run in the background of a shell ignores SIGINT and SIGQUIT, and what it starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if "TMPDIR" not in os.environ and _has_room():
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
    settings.register_profile("without a deadline", settings(), deadline=None)
    settings.load_profile("without a deadline")
    gc.disable()


def pytest_collection_finish() -> None:
    """Thousands of tests were collected, and stay: no pass of the collector need walk through them."""
    gc.freeze()
    gc.enable()


def _has_room() -> bool:
    """Hundreds of homes are made and thrown away: in memory that is half of the time. What is about disks is on one,
    see `on_disk` of daemon_harness.Daemon; `TMPDIR=/tmp` puts everything there."""
    try:
        found = os.statvfs(MEMORY)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return False
    writable = os.access(MEMORY, os.W_OK | os.X_OK) and not found.f_flag & UNSAFE
    return writable and min(found.f_bavail * found.f_frsize, free) > ROOM_BYTES
