"""Real resource limits of this process, for the length of a block."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Every open() and socket() fails with EMFILE."""
    lowest = os.dup(0)
    os.close(lowest)
    with _limited(resource.RLIMIT_NOFILE, lowest):
        yield


@contextmanager
def no_file_space(size: int = 0) -> Iterator[None]:
    """No file grows beyond `size` bytes: EFBIG, as EDQUOT or ENOSPC elsewhere."""
    with _limited(resource.RLIMIT_FSIZE, size):
        yield


@contextmanager
def _limited(which: int, limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))
