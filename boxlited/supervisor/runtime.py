"""What the daemon holds of a box in memory only: lock, pidfd, and what it saw of its death.

Nothing here is truth: all of it can be lost with the daemon and is found again by `observe`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext

import trio

from boxlited.model import Box, BoxID
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.kernel import ExitStatus
from boxlited.supervisor.patience import Patience


class BoxRuntime:
    """`lock` is held for a whole transition; never two of them at once."""

    __slots__ = (
        "box_id",
        "changed",
        "commands",
        "dead",
        "died_at",
        "ended",
        "exec_errors",
        "handle",
        "lock",
        "patience",
        "release",
        "restart_scope",
        "shim_status",
        "unknown_passes",
        "unproven",
    )

    def __init__(self, box_id: BoxID, release: Callable[[PidfdHandle], None]) -> None:
        self.box_id = box_id
        self.release = release  # called with a handle that is about to be closed
        self.ended: Box | None = None  # the row as it was when the last run ended
        self.lock = trio.Lock()
        self.patience = Patience()
        self.changed = trio.Event()
        self.handle: PidfdHandle | None = None
        self.dead: trio.Event | None = None  # set by the watcher when `handle`'s process ends
        self.shim_status: ExitStatus | None = None
        self.died_at: float | None = None  # trio clock
        self.unknown_passes = 0
        self.unproven = False  # the live shim could not show that it knows its run's key
        self.restart_scope: trio.CancelScope | None = None
        self.commands = 0  # asked for since the daemon began, and those of them that could not be started
        self.exec_errors = 0

    @asynccontextmanager
    async def locked(self, grace_seconds: float | None = None) -> AsyncIterator[None]:
        """The lock. Until it is had, a stop of somebody else asks for no longer than `grace_seconds`."""
        with nullcontext() if grace_seconds is None else self.patience.at_most(grace_seconds):
            await self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def notify(self) -> None:
        """Wake everybody who waits for a change of this box."""
        self.changed.set()
        self.changed = trio.Event()

    def forget_run(self) -> None:
        """Drop what belonged to a run that is accounted for."""
        if self.handle is not None:
            self.release(self.handle)
            self.handle.close()
        self.handle = None
        self.dead = None
        self.shim_status = None
        self.died_at = None
        self.unproven = False
