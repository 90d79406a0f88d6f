"""Our interpreter as the spawner executes it: the same program, but nothing that a box could change.

Whoever is made to execute /proc/self/exe inside a box (a command, or the `#!` line of a script there) holds
that file as the shim does, beyond all mounts of the box; and the owner of a file may change it. So it comes
through a read-only mount of its own where the kernel lets us make one, else as a sealed copy in memory.
"""

from __future__ import annotations

import fcntl
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from boxlited.shim.readonly import read_only_mount

MFD_EXEC = 0x10  # known from Linux 6.3 on
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

log = structlog.get_logger()


@contextmanager
def unchangeable(path: str) -> Iterator[str]:
    """Where to execute the program at `path` from, while the block lasts."""
    fd = _protected(path)
    if fd is None:
        log.warning("the interpreter's file is not protected from the commands in boxes", path=path)
        yield path
        return
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def _protected(path: str) -> int | None:
    for way in (read_only_mount, sealed_copy):
        try:
            return way(path)
        except OSError as error:
            log.debug("the interpreter cannot be protected this way", error=str(error))
    return None


def environment() -> dict[str, str]:
    """The environment of an interpreter that cannot see where its file lies. No box gets it."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return dict(os.environ)
    library = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))), "lib")
    known = os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": f"{library}:{known}" if known else library}


def sealed_copy(path: str) -> int:
    """A file in memory with the same content, for ever. Raises OSError."""
    fd = _memory_file()
    try:
        with open(path, "rb") as source:
            while os.sendfile(fd, source.fileno(), None, 1 << 24) > 0:
                pass
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("boxlited", flags | MFD_EXEC)
    except OSError:
        return os.memfd_create("boxlited", flags)
