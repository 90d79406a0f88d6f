"""The box table, the event log and the idempotency keys: reads from memory, writes through one writer.

The daemon is the only owner of the database (flock on the home), so the memory is the
database. Invariants: memory changes only after the commit, except for a change that may not
wait for a full disk, which is kept as pending and carried by the next commit. What was
cancelled while it waited is written all the same.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from boxlited.errors import DatabaseError, InvalidArgument
from boxlited.model import Box, BoxID, Event, EventDraft
from boxlited.store.aio import open_loop
from boxlited.store.codec import (
    COLUMNS,
    DELETE_BOX,
    INSERT_BOX,
    SELECT_BOXES,
    SELECT_EVENTS,
    Entry,
    box_from_row,
    box_values,
    clean,
    event_from_row,
    update_statement,
)
from boxlited.store.connection import Connection, Statement, translate
from boxlited.store.events import Broadcast
from boxlited.store.keys import Keys
from boxlited.store.opening import Corrupt, create_private, has_leftovers, set_aside, unusable, was_set_aside
from boxlited.store.table import Table
from boxlited.store.writer import Write, Writer, closed

PRUNE_CHUNK = 5_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoreOpening:
    """`rebuilt`: rows may be missing, so directories without one must become boxes again.

    It stays so, over restarts, until the owner calls `finish_rebuild`.
    """

    rebuilt: bool
    set_aside: Path | None = None


class Store:
    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._table = Table()
        self._keys = Keys(clock)
        self._broadcast = Broadcast()
        self._writer = Writer(path, self._broadcast.publish)
        self._connection: Connection | None = None
        self.boxes = self._table.boxes

    @classmethod
    def at(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Store:
        return cls(path, clock)

    # -- life

    async def run(self, *, task_status: trio.TaskStatus[StoreOpening] = trio.TASK_STATUS_IGNORED) -> None:
        """Open, report how, serve until cancelled, then finish what is queued. Raises StartupError."""
        async with open_loop():
            connection, opening = await self._open()
            try:
                self._connection = connection
                await self._writer.run(connection, lambda: task_status.started(opening))
            finally:
                self._connection = None
                self._broadcast.close()
                await connection.close()

    async def _open(self) -> tuple[Connection, StoreOpening]:
        aside = None
        if not create_private(self._path) and has_leftovers(self._path):
            aside = set_aside(self._path)
            create_private(self._path)
        try:
            connection, rebuild = await Connection.open(self._path, self._load)
        except Corrupt as problem:
            aside = set_aside(self._path)
            log.error("the database is corrupt and was set aside", problem=str(problem), set_aside=str(aside))
            create_private(self._path)
            try:
                connection, rebuild = await Connection.open(self._path, self._load)
            except Corrupt as again:  # a new file: what is wrong is not the file
                raise unusable(self._path, again) from again
        return connection, StoreOpening(rebuilt=rebuild, set_aside=aside)

    def _load(self, connection: sqlite3.Connection) -> bool:
        """Everything but the log into memory. Returns whether rows may be missing."""
        boxes = []
        for row in connection.execute(SELECT_BOXES).fetchall():
            try:
                boxes.append(box_from_row(row))
            except (ValueError, InvalidArgument) as error:
                _drop_row(connection, row, error)
        rebuild = connection.execute("SELECT 1 FROM facts WHERE name = 'rebuild'").fetchone() is not None
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        if last is not None:
            self._writer.seq = last[0]
        elif was_set_aside(self._path):  # go on above every number that the lost log can have given
            self._writer.seq = int(self._clock() * 1000)
        connection.execute(SELECT_EVENTS, (0, 1)).fetchone()  # only that it can be read
        self._keys.load(connection)
        for box in boxes:
            self._table.put(box)
        return rebuild

    # -- reading

    def get(self, box_id: BoxID) -> Box | None:
        return self.boxes.get(box_id)

    def by_name(self, name: str) -> Box | None:
        return self._table.by_name(name)

    def idempotent(self, key: str) -> tuple[str, str] | None:
        """(box id, fingerprint of the request) of an earlier create with this key, while its box exists."""
        known = self._keys.get(key)
        return known if known is not None and known[0] in self.boxes else None

    @property
    def last_event_seq(self) -> int:
        return self._writer.seq

    @property
    def pending_writes(self) -> int:
        """Changes and events that wait for space on the disk, and writes in the queue."""
        return len(self._writer.backlog) + self._writer.queued

    @property
    def unrecorded(self) -> frozenset[BoxID]:
        """Boxes whose newest changes are in memory alone, for the disk takes none."""
        return self._writer.backlog.boxes()

    def stats(self) -> dict[str, int]:
        writer = self._writer
        return {
            "commits": writer.commits,
            "writes": writer.writes,
            "largest_batch": writer.largest_batch,
            "failed_commits": writer.failures,
            "pending": self.pending_writes,
        }

    async def events_since(self, seq: int, limit: int = 1000) -> list[Event]:
        """Committed events with a number above `seq`, oldest first. Raises DatabaseError."""
        if self._connection is None:
            raise closed()
        try:
            rows = await self._connection.run(lambda raw: raw.execute(SELECT_EVENTS, (seq, limit)).fetchall())
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        return [event_from_row(row) for row in rows]

    def subscribe(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """Events from now on; see Broadcast.subscribe for what happens to a slow reader."""
        return self._broadcast.subscribe()

    # -- writing

    async def insert(self, box: Box, event: EventDraft, *, idempotency: tuple[str, str] | None = None) -> Box:
        """Add a row; `idempotency` is (key, fingerprint).

        Raises AlreadyExists (also for a name whose insert is under way), DatabaseError.
        """
        statements: list[Statement] = [(INSERT_BOX, box_values(box))]
        if idempotency is not None:
            key, fingerprint = idempotency
            statements.append(self._keys.statement(key, box.box_id, fingerprint))
        entry = Entry(event, self._clock())
        self._table.reserve(box)

        def apply() -> None:
            self._table.put(box)
            if idempotency is not None:
                self._keys.put(idempotency[0], box.box_id, idempotency[1])

        await self._writer.submit(Write(statements, entry, apply, partial(self._table.release, box)))
        return box

    async def update(
        self,
        box_id: BoxID,
        changes: Mapping[str, Any],
        event: EventDraft | None = None,
        *,
        must_be_durable: bool = True,
    ) -> Box:
        """Change the named columns and append an event, in one commit. Returns the row as it is then.

        With `must_be_durable` False a disk that fails is no error: memory changes all the same,
        the change and its event go with the next commit. Raises NotFound, DatabaseError.
        """
        before = self._table.require(box_id)
        changes = {name: clean(value) for name, value in changes.items()}
        write = Write(
            statements=[update_statement(changes, box_id)] if changes else [],
            entry=None if event is None else Entry(event, self._clock()),
            apply=partial(self._table.change, box_id, changes),
            lasting=not must_be_durable,
            box_id=box_id if changes else None,
            changes=changes,
        )
        await self._writer.submit(write)
        return self.boxes.get(box_id) or msgspec.structs.replace(before, **changes)

    async def delete(self, box_id: BoxID, event: EventDraft) -> None:
        """Remove a row. Raises NotFound when there is none or its removal is under way; DatabaseError."""
        self._table.require(box_id)
        write = Write(
            statements=[(DELETE_BOX, (str(box_id),))],
            entry=Entry(event, self._clock()),
            apply=partial(self._table.drop, box_id),
            release=partial(self._table.stay, box_id),
        )
        self._table.leave(box_id)
        await self._writer.submit(write)

    async def append_event(self, event: EventDraft) -> Event | None:
        """Append to the log; never an error of the caller. None when the disk delays it."""
        try:
            return await self._writer.submit(Write(entry=Entry(event, self._clock()), lasting=True))
        except DatabaseError:
            return None

    async def retry_pending(self) -> bool:
        """Write what a full disk held back. True when nothing is held back any more."""
        if self._writer.backlog:
            await self._writer.submit(Write(lasting=True))
        return not self._writer.backlog

    async def finish_rebuild(self, event: EventDraft | None = None) -> None:
        """The owner has looked at every directory: from now on one without a row is a stray.

        Raises DatabaseError; the next start then asks for a rebuild again.
        """
        entry = None if event is None else Entry(event, self._clock())
        await self._writer.submit(Write([("DELETE FROM facts WHERE name = 'rebuild'", ())], entry))

    async def prune_events(self, keep: int) -> None:
        """Bound the log to its newest `keep` events, and the keys to their time. Raises DatabaseError."""
        await self._writer.submit(Write([self._keys.prune()]))
        first = (await self.events_since(0, 1))[:1]
        last_to_go = self._writer.seq - keep
        while first and first[0].seq <= last_to_go:  # in pieces: other writers get their turn
            upto = min(last_to_go, first[0].seq + PRUNE_CHUNK)
            await self._writer.submit(Write([("DELETE FROM events WHERE seq <= ?", (upto,))]))
            first = await self.events_since(upto, 1)


def _drop_row(connection: sqlite3.Connection, row: tuple[Any, ...], error: Exception) -> None:
    """A row that is not understood must not block the box that its directory describes."""
    content = dict(zip(COLUMNS, row, strict=True))
    log.error("a row is not understood and is dropped", error=str(error), row=repr(content)[:4000])
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO facts VALUES ('rebuild', 'wanted')")
    connection.execute(DELETE_BOX, (content["box_id"],))
    connection.execute("COMMIT")
