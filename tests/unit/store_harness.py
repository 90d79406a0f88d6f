"""What the store's tests share: boxes, an opened store, and a disk that is really full."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from boxlited.errors import StartupError
from boxlited.model import Box, BoxID, BoxSpec, EventDraft, EventKind
from boxlited.store.store import Store, StoreOpening

WARNING = EventDraft(kind=EventKind.WARNING)


def box(number: int = 0, **values: Any) -> Box:
    spec = values.pop("spec", BoxSpec(image="host", labels={"n": str(number)}))
    content = {"box_id": BoxID.mint(), "name": f"box-{number}", "spec": spec, "created_at": 1.0, **values}
    return Box(**content)


def created(row: Box) -> EventDraft:
    return EventDraft(kind=EventKind.CREATED, box_id=row.box_id, name=row.name)


def removed(row: Box) -> EventDraft:
    return EventDraft(kind=EventKind.REMOVED, box_id=row.box_id, name=row.name)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[tuple[Store, StoreOpening]]:
    store = Store.at(path, **options)
    async with trio.open_nursery() as nursery:
        opening: StoreOpening = await nursery.start(store.run)
        with trio.fail_after(60):
            yield store, opening
        nursery.cancel_scope.cancel()


async def filled(path: Path, count: int = 1) -> list[Box]:
    """A database with rows, whose owner has finished the rebuild; closed again."""
    rows = [box(number) for number in range(count)]
    async with opened(path) as (store, _):
        for row in rows:
            await store.insert(row, created(row))
        await store.finish_rebuild()
    return rows


async def raw(store: Store, work: Callable[[sqlite3.Connection], Any]) -> Any:
    """Run something in the connection's own thread."""
    assert store._connection is not None
    return await store._connection.run(work)


async def fill_disk(store: Store) -> None:
    """SQLite's own SQLITE_FULL: the database may not grow beyond what it has."""
    await raw(store, lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall())


async def free_disk(store: Store) -> None:
    await raw(store, lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchall())


def edit(path: Path, *statements: str) -> None:
    """Change the closed file behind the store's back."""
    connection = sqlite3.connect(path)
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


async def refusal(path: Path) -> StartupError:
    """How the start is refused."""
    with pytest.RaisesGroup(StartupError, allow_unwrapped=True, flatten_subgroups=True) as caught:
        async with opened(path):
            pytest.fail("it was opened")
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StartupError)
    return error


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()
