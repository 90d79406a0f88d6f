"""The box table, the event log and the idempotency keys: reads from memory, writes through one writer.

The daemon is the only owner of the database (flock on the home), so the memory is the
database. Invariants: memory changes only after the commit, except for a change that may not
wait for a full disk, which is kept as pending and carried by the next write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
import trio
import trio_asyncio

from boxlited.errors import AlreadyExists, DatabaseError, NotFound
from boxlited.model import Box, BoxID, Event, EventDraft
from boxlited.store.codec import (
    INSERT_BOX,
    INSERT_EVENT,
    INSERT_KEY,
    SELECT_BOXES,
    box_from_row,
    box_values,
    event_from_row,
    event_values,
    update_statement,
)
from boxlited.store.connection import Connection, Corrupt, set_aside
from boxlited.store.events import Broadcast
from boxlited.store.writer import Statement, Write, Writer

MAX_KEYS = 10_000
KEY_SECONDS = 86400.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoreOpening:
    """`rebuilt`: the table is new, so its rows must come from the box directories."""

    rebuilt: bool
    set_aside: Path | None = None


class Store:
    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._boxes: dict[BoxID, Box] = {}
        self._names: dict[str, BoxID] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._seq = 0
        self._pending: dict[BoxID, dict[str, Any]] = {}
        self._pending_events: list[Event] = []
        self._broadcast = Broadcast()
        self._writer = Writer(path)
        self._connection: Connection | None = None
        self.boxes: Mapping[BoxID, Box] = MappingProxyType(self._boxes)

    @classmethod
    def at(cls, path: Path, *, clock: Callable[[], float] = time.time) -> Store:
        return cls(path, clock)

    # -- life

    async def run(self, *, task_status: trio.TaskStatus[StoreOpening] = trio.TASK_STATUS_IGNORED) -> None:
        """Open, report how, serve until cancelled. Raises StartupError."""
        async with trio_asyncio.open_loop():
            opening, connection = await self._open()
            self._connection = connection
            try:
                await connection.run(self._load)
                task_status.started(opening)
                await self._writer.run(connection)
            finally:
                self._connection = None
                with trio.CancelScope(shield=True):
                    await connection.close()

    async def _open(self) -> tuple[StoreOpening, Connection]:
        existed = self._path.exists() and self._path.stat().st_size > 0
        aside = None
        _create_private(self._path)
        try:
            connection = await Connection.open(self._path)
        except Corrupt as problem:
            aside = set_aside(self._path)
            log.error("the database is corrupt and was set aside", problem=str(problem), set_aside=str(aside))
            _create_private(self._path)
            connection = await Connection.open(self._path)
        return StoreOpening(rebuilt=not existed or aside is not None, set_aside=aside), connection

    def _load(self, connection: Any) -> None:
        for row in connection.execute(SELECT_BOXES):
            try:
                box = box_from_row(row)
            except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
                log.error("a row is not understood and was left out", box_id=row[0], error=str(error))
                continue
            self._boxes[box.box_id] = box
            self._names[box.name] = box.box_id
        for key, box_id, fingerprint in connection.execute(
            "SELECT key, box_id, fingerprint FROM idempotency WHERE at > ? ORDER BY at DESC LIMIT ?",
            (self._clock() - KEY_SECONDS, MAX_KEYS),
        ):
            self._keys[key] = (box_id, fingerprint)
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        self._seq = row[0] if row is not None else 0

    # -- reading

    def get(self, box_id: BoxID) -> Box | None:
        return self._boxes.get(box_id)

    def by_name(self, name: str) -> Box | None:
        box_id = self._names.get(name)
        return None if box_id is None else self._boxes.get(box_id)

    def idempotent(self, key: str) -> tuple[str, str] | None:
        """(box id, fingerprint of the request) of an earlier create with this key."""
        known = self._keys.get(key)
        return known if known is not None and known[0] in self._boxes else None

    @property
    def last_event_seq(self) -> int:
        return self._seq

    @property
    def pending_writes(self) -> int:
        return len(self._pending) + len(self._pending_events) + self._writer.queued

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
        """Committed events with a number above `seq`, oldest first."""
        if self._connection is None:
            raise DatabaseError("the store is closed")
        sql = "SELECT seq, at, kind, box_id, name, data FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = await self._connection.run(lambda raw: raw.execute(sql, (seq, limit)).fetchall())
        return [event_from_row(row) for row in rows]

    def subscribe(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        return self._broadcast.subscribe()

    # -- writing

    async def insert(self, box: Box, event: EventDraft, *, idempotency: tuple[str, str] | None = None) -> Box:
        """Add a row. Raises AlreadyExists (also for a name whose insert is under way), DatabaseError."""
        if box.name in self._names or box.box_id in self._boxes:
            raise AlreadyExists(f"a box named {box.name!r} exists already: choose another name or remove it")
        self._names[box.name] = box.box_id  # reserved; released when the commit fails
        numbered: list[Event] = []

        def build() -> list[Statement]:
            numbered[:] = [self._number(event)]
            statements: list[Statement] = [(INSERT_BOX, box_values(box)), (INSERT_EVENT, event_values(numbered[0]))]
            if idempotency is not None:
                statements.append((INSERT_KEY, (idempotency[0], str(box.box_id), idempotency[1], self._clock())))
            return statements

        def done() -> None:
            self._boxes[box.box_id] = box
            if idempotency is not None:
                self._keys[idempotency[0]] = (box.box_id, idempotency[1])
            self._broadcast.publish(numbered[0])

        def release(_error: DatabaseError) -> None:
            self._names.pop(box.name, None)

        await self._writer.submit(Write(build, done, release))
        return box

    async def update(
        self,
        box_id: BoxID,
        changes: Mapping[str, Any],
        event: EventDraft | None = None,
        *,
        must_be_durable: bool = True,
    ) -> Box:
        """Change the named columns and append an event, in one commit. Returns the new row.

        With `must_be_durable` False a failed commit changes memory all the same; the change is
        retried with the next write of the box and by `retry_pending`. Raises NotFound, DatabaseError.
        """
        if box_id not in self._boxes:
            raise NotFound(f"there is no box {box_id}")
        numbered: list[Event] = []

        def build() -> list[Statement]:
            carried = {**self._pending.get(box_id, {}), **changes}
            statements: list[Statement] = [update_statement(carried, box_id)]
            if event is not None:
                numbered[:] = [self._number(event)]
                statements.append((INSERT_EVENT, event_values(numbered[0])))
            return statements

        def done() -> None:
            self._pending.pop(box_id, None)
            self._change(box_id, changes, numbered)

        def failed(_error: DatabaseError) -> None:
            if not must_be_durable and box_id in self._boxes:
                self._pending.setdefault(box_id, {}).update(changes)
                self._pending_events.extend(numbered)
                self._change(box_id, changes, numbered)

        write = Write(build, done, failed)
        try:
            await self._writer.submit(write)
        except DatabaseError:
            if must_be_durable:
                raise
        return self._boxes.get(box_id) or _gone(box_id)

    async def delete(self, box_id: BoxID, event: EventDraft) -> None:
        """Remove a row. Idempotent. Raises DatabaseError."""
        numbered: list[Event] = []

        def build() -> list[Statement]:
            numbered[:] = [self._number(event)]
            return [("DELETE FROM boxes WHERE box_id = ?", (str(box_id),)), (INSERT_EVENT, event_values(numbered[0]))]

        def done() -> None:
            box = self._boxes.pop(box_id, None)
            if box is not None:
                self._names.pop(box.name, None)
            self._pending.pop(box_id, None)
            self._broadcast.publish(numbered[0])

        await self._writer.submit(Write(build, done))

    async def append_event(self, event: EventDraft) -> None:
        """Append to the log. A full disk delays it; it is not an error of the caller."""
        numbered: list[Event] = []

        def build() -> list[Statement]:
            numbered[:] = [self._number(event)]
            return [(INSERT_EVENT, event_values(numbered[0]))]

        def failed(_error: DatabaseError) -> None:
            self._pending_events.extend(numbered)
            self._broadcast.publish(numbered[0])

        try:
            await self._writer.submit(Write(build, lambda: self._broadcast.publish(numbered[0]), failed))
        except DatabaseError:
            return

    async def retry_pending(self) -> bool:
        """Write what a full disk held back. True when nothing is held back any more. Raises DatabaseError."""
        if not self._pending and not self._pending_events:
            return True
        taken: dict[BoxID, dict[str, Any]] = {}
        events: list[Event] = []

        def build() -> list[Statement]:
            taken.update({box_id: dict(changes) for box_id, changes in self._pending.items()})
            events.extend(self._pending_events)
            statements: list[Statement] = [update_statement(changes, box_id) for box_id, changes in taken.items()]
            return statements + [(INSERT_EVENT, event_values(event)) for event in events]

        def done() -> None:
            for box_id, changes in taken.items():
                if self._pending.get(box_id) == changes:
                    self._pending.pop(box_id)
            del self._pending_events[: len(events)]

        await self._writer.submit(Write(build, done))
        return not self._pending and not self._pending_events

    async def prune_events(self, keep: int) -> None:
        """Bound the log to its newest `keep` events, and the keys to their time."""
        if self._connection is None:
            return
        old_keys = self._clock() - KEY_SECONDS

        def build() -> list[Statement]:
            return [
                ("DELETE FROM events WHERE seq <= ?", (self._seq - keep,)),
                ("DELETE FROM idempotency WHERE at < ?", (old_keys,)),
            ]

        await self._writer.submit(Write(build, lambda: None))

    # -- inside

    def _number(self, draft: EventDraft) -> Event:
        self._seq += 1
        return Event(
            seq=self._seq, at=self._clock(), kind=draft.kind, box_id=draft.box_id, name=draft.name, data=draft.data
        )

    def _change(self, box_id: BoxID, changes: Mapping[str, Any], events: list[Event]) -> None:
        box = self._boxes.get(box_id)
        if box is not None:
            self._boxes[box_id] = msgspec.structs.replace(box, **changes)
        for event in events:
            self._broadcast.publish(event)


def _gone(box_id: BoxID) -> Box:
    raise NotFound(f"there is no box {box_id}: it was removed meanwhile")


def _create_private(path: Path) -> None:
    """The file exists with mode 0600 before SQLite opens it; its companions inherit the mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
