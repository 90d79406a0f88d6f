"""The restart policy's timers: exponential backoff with jitter, in memory only.

That a restart is due is in the row (wanted running, ended, policy says so; or a restart by a user was cut);
the timer is found again by `decide` after a restart of the daemon. A manual stop cancels it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import structlog
import trio

from boxlited.model import Box, BoxID, Desired
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.runtime import BoxRuntime

JITTER = 0.1
MAX_EXPONENT = 1000  # beyond any maximum, and still a float

log = structlog.get_logger()


def backoff_seconds(box: Box, randomness: float) -> float:
    """Delay before the next run: doubles with each restart up to the maximum; +-10 % jitter.

    `randomness` is in [0, 1).
    """
    backoff = box.spec.restart.backoff
    exponent = min(box.restart_count, MAX_EXPONENT)
    delay = min(backoff.max_seconds, backoff.initial_seconds * 2.0**exponent)
    return float(delay * (1 - JITTER + 2 * JITTER * randomness))


class Restarts:
    """At most one timer for each box."""

    def __init__(self, ledger: Ledger, nursery: trio.Nursery, fire: Callable[[BoxID], Awaitable[None]]) -> None:
        self._ledger = ledger
        self._nursery = nursery
        self._fire = fire
        self._random = random.Random()

    def is_scheduled(self, box_id: BoxID) -> bool:
        return self._ledger.runtime(box_id).restart_scope is not None

    def schedule(self, box: Box) -> float | None:
        """Start the timer; returns the delay in seconds, or None when one runs already."""
        runtime = self._ledger.runtime(box.box_id)
        if runtime.restart_scope is not None:
            return None
        restarted = box.desired is Desired.RESTARTED  # by a user, who waits for no backoff
        delay = 0.0 if restarted else backoff_seconds(box, self._random.random())
        scope = runtime.restart_scope = trio.CancelScope()
        self._nursery.start_soon(self._wait, runtime, delay, scope)
        return delay

    def cancel(self, box_id: BoxID) -> None:
        """At once: a timer that is started next is another one."""
        runtime = self._ledger.runtime(box_id)
        if runtime.restart_scope is not None:
            runtime.restart_scope.cancel()
            runtime.restart_scope = None

    async def _wait(self, runtime: BoxRuntime, delay: float, scope: trio.CancelScope) -> None:
        """Keeps to the runtime that it began with: the box may be removed meanwhile."""
        with scope:
            await trio.sleep(delay)
        if scope.cancel_called:
            return
        runtime.restart_scope = None
        await self._fire(runtime.box_id)
