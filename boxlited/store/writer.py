"""The one writer: takes everything that is queued into one transaction, one fsync for all.

Owns the order: memory changes and events are published in commit order, after the commit.
A write goes through whatever becomes of the caller that waits for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from boxlited.errors import DatabaseError
from boxlited.store.connection import Connection, commit, translate

MAX_BATCH = 512
FINISH_SECONDS = 10.0

log = structlog.get_logger()

Statement = tuple[str, Sequence[Any]]


class Write:
    """`build` gives the statements when the batch is made; `done` runs after the commit."""

    __slots__ = ("build", "done", "ended", "error", "failed")

    def __init__(
        self,
        build: Callable[[], list[Statement]],
        done: Callable[[], None],
        failed: Callable[[DatabaseError], None] = lambda error: None,
    ) -> None:
        self.build = build
        self.done = done
        self.failed = failed
        self.error: DatabaseError | None = None
        self.ended = trio.Event()


class Writer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: list[Write] = []
        self._wake = trio.Event()
        self.commits = 0
        self.writes = 0
        self.largest_batch = 0
        self.failures = 0

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def submit(self, write: Write) -> None:
        """Queue a write and wait for its commit. Raises DatabaseError. When the waiting is
        cancelled the write still happens."""
        self._queue.append(write)
        self._wake.set()
        await write.ended.wait()
        if write.error is not None:
            raise write.error

    async def run(self, connection: Connection) -> None:
        """Serve until cancelled; what is queued then is finished within a bound."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._drain(connection)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FINISH_SECONDS):
                await self._drain(connection)

    async def _drain(self, connection: Connection) -> None:
        while self._queue:
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            with trio.CancelScope(shield=True):
                await self._commit(connection, batch)

    async def _commit(self, connection: Connection, batch: list[Write]) -> None:
        statements = [statement for write in batch for statement in write.build()]
        try:
            await connection.run(commit(statements))
        except sqlite3.IntegrityError:
            if len(batch) == 1:
                self._fail(batch, DatabaseError("the database refused the write: it is not consistent with a row"))
                return
            for write in batch:  # one of them is wrong: it alone shall fail
                await self._commit(connection, [write])
            return
        except sqlite3.Error as error:
            self._fail(batch, translate(error, self._path))
            return
        self.commits += 1
        self.writes += len(batch)
        self.largest_batch = max(self.largest_batch, len(batch))
        for write in batch:
            write.done()
            write.ended.set()

    def _fail(self, batch: list[Write], error: DatabaseError) -> None:
        self.failures += 1
        log.error("a commit failed", writes=len(batch), error=error.message)
        for write in batch:
            write.error = error
            write.failed(error)
            write.ended.set()
