"""Our interpreter as the spawner executes it: the same program, but nothing that a box could change.

Whoever is made to execute /proc/self/exe inside a box (a command, or the `#!` line of a script there) holds
that file as the shim does, beyond all mounts of the box; and the owner of a file may change it. So it comes
through a read-only mount of its own where the kernel lets us make one, else as a sealed copy in memory.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from boxlited.shim.readonly import unchangeable_file

log = structlog.get_logger()


@contextmanager
def unchangeable(path: str) -> Iterator[str]:
    """Where to execute the program at `path` from, while the block lasts."""
    try:
        fd = unchangeable_file(path)
    except OSError as error:
        log.warning("the interpreter's file is not protected from boxes", path=path, error=error.strerror)
        yield path
        return
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def environment() -> dict[str, str]:
    """The environment of an interpreter that cannot see where its file lies. No box gets it."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return dict(os.environ)
    library = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))), "lib")
    known = os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": f"{library}:{known}" if known else library}
