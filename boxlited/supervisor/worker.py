"""Blocking work in a worker thread. A host that gives no thread is an error in words, and passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from boxlited.errors import ResourceExhausted

NO_THREAD = "can't start new thread"  # Python's own words; it has no class for this
T = TypeVar("T")


async def in_worker(work: Callable[..., T], *arguments: object) -> T:
    """Raises what the work raises, and ResourceExhausted when no thread can be started for it."""
    try:
        return await trio.to_thread.run_sync(work, *arguments)
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        raise ResourceExhausted(
            "the host gives no thread: raise TasksMax or the limit of processes, or retry when there is memory"
        ) from error
