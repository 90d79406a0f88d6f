"""How long a stop that is under way may still ask: as long as the least patient of those who want the box down.

A stop holds the box's lock for its whole grace. Who comes meanwhile and grants less (a kill, a forced remove,
a shorter stop) waits for the lock, and must not wait for a grace that is not his. No I/O, no decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Patience:
    __slots__ = ("_asking", "_wishes")

    def __init__(self) -> None:
        self._asking: trio.CancelScope | None = None  # around the wait of a stop under way
        self._wishes: list[float] = []  # seconds, of those who wait for the lock

    @property
    def is_asking(self) -> bool:
        """Whether a stop waits for its workload to end by itself."""
        return self._asking is not None

    def least(self, grace_seconds: float) -> float:
        return min([grace_seconds, *self._wishes])

    @contextmanager
    def at_most(self, grace_seconds: float) -> Iterator[None]:
        """While inside: no stop of the box asks for longer than this from now on."""
        self._wishes.append(grace_seconds)
        if self._asking is not None:
            self._asking.deadline = min(self._asking.deadline, trio.current_time() + grace_seconds)
        try:
            yield
        finally:
            self._wishes.remove(grace_seconds)

    @contextmanager
    def asking(self, grace_seconds: float) -> Iterator[None]:
        """The wait of a stop; it is left when nobody's patience is left."""
        with trio.move_on_after(self.least(grace_seconds)) as scope:
            self._asking = scope
            try:
                yield
            finally:
                self._asking = None
