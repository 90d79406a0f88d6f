"""The one writer: takes everything that is queued into one transaction, one fsync for all.

Owns the order: events get their numbers in the batch, memory changes and events are published
after the commit, in its order. A write goes through whatever becomes of the caller that waits
for it. A number is given only by a commit: the log has no holes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import trio

from boxlited.errors import DatabaseError
from boxlited.model import BoxID, Event
from boxlited.store.backlog import Backlog
from boxlited.store.codec import INSERT_EVENT, Entry
from boxlited.store.connection import Connection, Statement, commit, translate

MAX_BATCH = 512
FINISH_SECONDS = 10.0
# One write of the batch is wrong; the others shall not suffer for it.
REFUSALS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)

log = structlog.get_logger()


def _nothing() -> None:
    return None


@dataclass(slots=True, eq=False)
class Write:
    """`apply` changes memory after the commit, `release` takes a reservation back after a failure.

    A `lasting` write records what already happened: memory changes even when the disk is full,
    and `changes` and `entry` wait in the backlog.
    """

    statements: Sequence[Statement] = ()
    entry: Entry | None = None
    apply: Callable[[], None] = _nothing
    release: Callable[[], None] = _nothing
    lasting: bool = False
    box_id: BoxID | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    event: Event | None = None
    error: DatabaseError | None = None
    ended: trio.Event = field(default_factory=trio.Event)


class Writer:
    def __init__(self, path: Path, publish: Callable[[Event], None]) -> None:
        self._path = path
        self._publish = publish
        self._queue: list[Write] = []
        self._batch: list[Write] = []  # under way
        self._wake = trio.Event()
        self._is_open = False
        self.backlog = Backlog()
        self.seq = 0
        self.commits = 0
        self.writes = 0
        self.largest_batch = 0
        self.failures = 0

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def submit(self, write: Write) -> Event | None:
        """Queue a write and wait for its commit; returns its event. Raises DatabaseError.

        Cancelling the wait does not take the write back. None for a write in the backlog.
        """
        if not self._is_open:
            write.release()
            raise closed()
        self._queue.append(write)
        self._wake.set()
        await write.ended.wait()
        if write.error is not None:
            raise write.error
        return write.event

    async def run(self, connection: Connection, opened: Callable[[], None]) -> None:
        """Serve until cancelled; what is queued then is finished, within FINISH_SECONDS."""
        self._is_open = True
        scope = trio.CancelScope(shield=True)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, connection, scope)
                try:
                    opened()
                    await trio.sleep_forever()
                finally:
                    self._is_open = False
                    scope.deadline = trio.current_time() + FINISH_SECONDS
                    self._wake.set()
        finally:
            self._is_open = False
            self._abandon()

    async def _serve(self, connection: Connection, scope: trio.CancelScope) -> None:
        with scope:  # a commit under way is not interrupted by the end of the daemon
            while self._is_open or self._queue:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._queue:
                    self._batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                    await self._commit(connection, self._batch)
            if self.backlog:
                self._batch = []
                await self._commit(connection, [])  # the last chance

    def _abandon(self) -> None:
        """Nobody waits for ever: not even when the disk did not answer until the deadline."""
        left = [write for write in [*self._batch, *self._queue] if not write.ended.is_set()]
        self._queue = []
        for write in left:
            _fail(write, closed())
        if self.backlog:
            log.error("changes are lost with the daemon: the disk never took them", changes=len(self.backlog))

    async def _commit(self, connection: Connection, batch: list[Write]) -> None:
        backlog = list(self.backlog.entries)
        entries = backlog + [write.entry for write in batch if write.entry is not None]
        statements = self.backlog.statements()
        statements += [statement for write in batch for statement in write.statements]
        statements += [(INSERT_EVENT, entry.row(self.seq + n)) for n, entry in enumerate(entries, 1)]
        try:
            await connection.run(commit(statements))
        except REFUSALS as error:
            await self._split(connection, batch, error)
        except (sqlite3.Error, MemoryError) as error:
            self._postpone(batch, translate(error, self._path))
        else:
            self._succeed(batch, backlog)

    async def _split(self, connection: Connection, batch: list[Write], error: Exception) -> None:
        """Commit one by one, so that only the write that is wrong fails."""
        if not self.backlog and len(batch) == 1:
            self._refuse(batch[0], translate(error, self._path))
            return
        if not batch:
            log.error("changes that the database refuses are given up", error=str(error))
            self.backlog.clear()
            return
        if self.backlog:
            await self._commit(connection, [])
        for write in batch:
            await self._commit(connection, [write])

    def _succeed(self, batch: list[Write], backlog: list[Entry]) -> None:
        self.commits += 1
        self.writes += len(batch)
        self.largest_batch = max(self.largest_batch, len(batch))
        self.backlog.clear()  # only this task adds to it
        for entry in backlog:
            self._number(entry)
        for write in batch:
            write.apply()
            if write.entry is not None:
                write.event = self._number(write.entry)
            write.ended.set()

    def _number(self, entry: Entry) -> Event:
        self.seq += 1
        event = entry.event(self.seq)
        self._publish(event)
        return event

    def _postpone(self, batch: list[Write], error: DatabaseError) -> None:
        self.failures += 1
        log.error("a commit failed", writes=len(batch), error=error.message)
        for write in batch:
            if write.lasting:
                write.apply()
                self.backlog.add(write.box_id, write.changes, write.entry)
                write.ended.set()
            else:
                _fail(write, error)

    def _refuse(self, write: Write, error: DatabaseError) -> None:
        self.failures += 1
        log.error("the database refused a write", error=error.message)
        _fail(write, error)


def _fail(write: Write, error: DatabaseError) -> None:
    write.error = error
    write.release()
    write.ended.set()


def closed() -> DatabaseError:
    return DatabaseError("the daemon stops and its database is closed: retry when it runs again")
