"""The restart policy's timers: exponential backoff with jitter, in memory only.

That a restart is due is in the row (wanted running, ended, policy says so); the timer is
found again by `decide` after a restart of the daemon. A manual stop cancels it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import structlog
import trio

from boxlited.model import Box, BoxID
from boxlited.supervisor.ledger import Ledger

JITTER = 0.1

log = structlog.get_logger()


def backoff_seconds(box: Box, randomness: float) -> float:
    """Delay before the next run: doubles with each restart up to the maximum; +-10 % jitter.

    `randomness` is in [0, 1).
    """
    backoff = box.spec.restart.backoff
    exponent = min(box.restart_count, 30)
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
        delay = backoff_seconds(box, self._random.random())
        runtime.restart_scope = trio.CancelScope()
        self._nursery.start_soon(self._wait, box.box_id, delay, runtime.restart_scope)
        return delay

    def cancel(self, box_id: BoxID) -> None:
        scope = self._ledger.runtime(box_id).restart_scope
        if scope is not None:
            scope.cancel()

    async def _wait(self, box_id: BoxID, delay: float, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await trio.sleep(delay)
        finally:
            self._ledger.runtime(box_id).restart_scope = None
        if not scope.cancelled_caught:
            await self._fire(box_id)
