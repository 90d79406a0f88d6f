"""The store on a disk that is full, fails, or is locked; and what it holds back until then."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from boxlited.errors import DatabaseError
from boxlited.model import BoxSpec, BoxStatus, EventDraft, EventKind, StopCause
from boxlited.store import backlog
from boxlited.store.store import Store
from tests.unit.store_harness import (
    WARNING,
    box,
    created,
    fill_disk,
    filled,
    free_disk,
    opened,
    raw,
    removed,
)

FILLER = "x" * 100_000
STOPPED = EventDraft(kind=EventKind.STOPPED)


@asynccontextmanager
async def locked(store: Store, path: Path, *, milliseconds: int = 20) -> AsyncIterator[None]:
    """Another program holds the write lock; the store waits so long for it."""
    await raw(store, lambda connection: connection.execute(f"PRAGMA busy_timeout = {milliseconds}"))
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "boxlited.db"


async def test_a_full_disk_refuses_what_must_be_durable_and_changes_nothing(path: Path) -> None:
    (row,) = await filled(path)
    big = box(7, spec=BoxSpec(labels={"x": FILLER}))
    async with opened(path) as (store, _):
        await fill_disk(store)
        with pytest.raises(DatabaseError, match=f"the disk is full: free space under {path.parent} and retry; nothing"):
            await store.update(row.box_id, {"failure_reason": FILLER}, STOPPED)
        with pytest.raises(DatabaseError, match="disk is full"):
            await store.insert(big, created(big), idempotency=("key", "print"))
        assert dict(store.boxes) == {row.box_id: row}
        assert store.idempotent("key") is None
        assert store.pending_writes == 0
        assert store.last_event_seq == 1
        await free_disk(store)
        await store.insert(big, created(big))  # it goes on working, and the name is free
        assert store.last_event_seq == 2
    async with opened(path) as (store, _):
        assert dict(store.boxes) == {row.box_id: row, big.box_id: big}


async def test_what_already_happened_is_known_at_once_and_written_later(path: Path) -> None:
    (row,) = await filled(path)
    async with opened(path) as (store, _):
        with store.subscribe() as channel:
            await fill_disk(store)
            first = await store.update(row.box_id, {"failure_reason": FILLER}, STOPPED, must_be_durable=False)
            second = await store.update(
                row.box_id, {"status": BoxStatus.STOPPED, "exit_code": 3}, must_be_durable=False
            )
            assert (first.failure_reason, second.exit_code) == (FILLER, 3)
            assert store.get(row.box_id) == second
            assert not await store.retry_pending()
            assert store.pending_writes == 2
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()  # an event is published after its commit
            await free_disk(store)
            assert await store.retry_pending()
            assert store.pending_writes == 0
            assert channel.receive_nowait().kind is EventKind.STOPPED
    async with opened(path) as (store, _):
        assert store.get(row.box_id) == second
        assert [event.seq for event in await store.events_since(0)] == [1, 2]


async def test_the_next_commit_carries_what_was_held_back_in_its_order(path: Path) -> None:
    one, two = await filled(path, 2)
    async with opened(path) as (store, _):
        await fill_disk(store)
        big = EventDraft(kind=EventKind.FAILED, data={"x": FILLER})
        await store.update(one.box_id, {"stop_cause": StopCause.OOM, "exit_code": 1}, big, must_be_durable=False)
        assert await store.append_event(big) is None
        await free_disk(store)
        await store.update(one.box_id, {"exit_code": 2}, STOPPED)
        await store.update(two.box_id, {"exit_code": 3})
        expected = dict(store.boxes)
        assert store.pending_writes == 0
    async with opened(path) as (store, _):
        assert dict(store.boxes) == expected
        assert (expected[one.box_id].stop_cause, expected[one.box_id].exit_code) == (StopCause.OOM, 2)
        kinds = [event.kind for event in await store.events_since(2)]
        assert kinds == [EventKind.FAILED, EventKind.FAILED, EventKind.STOPPED]


async def test_a_box_with_something_held_back_can_be_removed(path: Path) -> None:
    (row,) = await filled(path)
    async with opened(path) as (store, _):
        await fill_disk(store)
        await store.update(row.box_id, {"failure_reason": FILLER}, must_be_durable=False)
        with pytest.raises(DatabaseError):
            await store.delete(row.box_id, EventDraft(kind=EventKind.REMOVED, data={"x": FILLER}))
        assert store.get(row.box_id) is not None
        await store.update(row.box_id, {"pid": 9}, must_be_durable=False)  # the removal is off
        await free_disk(store)
        await store.delete(row.box_id, removed(row))
        assert store.pending_writes == 0
    async with opened(path) as (store, _):
        assert not store.boxes


async def test_what_is_held_back_is_written_at_the_end(path: Path) -> None:
    (row,) = await filled(path)
    async with opened(path) as (store, _):
        await fill_disk(store)
        changed = await store.update(row.box_id, {"failure_reason": FILLER}, must_be_durable=False)
        await free_disk(store)
    async with opened(path) as (store, _):
        assert store.get(row.box_id) == changed


async def test_what_the_database_refuses_for_good_is_never_held_back(path: Path) -> None:
    (row,) = await filled(path)
    async with opened(path) as (store, _):
        with pytest.raises(DatabaseError, match="refused a write"):
            await store.update(row.box_id, {"updated_at": None}, STOPPED, must_be_durable=False)
        assert store.get(row.box_id) == row
        assert store.pending_writes == 0
        async with locked(store, path):  # so that it fails before its content is looked at
            await store.update(row.box_id, {"updated_at": None}, must_be_durable=False)
            assert store.pending_writes == 1
        other = box(2)
        await store.insert(other, created(other))  # what would poison every later commit is given up
        assert store.pending_writes == 0


async def test_events_held_back_for_long_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MAX_ENTRIES", 10)
    async with opened(path) as (store, _):
        await fill_disk(store)
        big = EventDraft(kind=EventKind.FAILED, data={"x": FILLER})
        for _ in range(15):
            await store.append_event(big)
        assert store.pending_writes == 10


async def test_a_locked_database_is_said_and_the_next_write_succeeds(path: Path) -> None:
    (row,) = await filled(path)
    async with opened(path) as (store, _):
        async with locked(store, path):
            with pytest.raises(DatabaseError, match="locked: end it and retry"):
                await store.update(row.box_id, {"pid": 1})
        assert (await store.update(row.box_id, {"pid": 2})).pid == 2


async def test_a_transaction_left_open_by_a_failed_rollback_does_not_block_the_next(path: Path) -> None:
    (row,) = await filled(path)
    async with opened(path) as (store, _):
        await raw(store, lambda connection: connection.execute("BEGIN IMMEDIATE"))
        assert (await store.update(row.box_id, {"pid": 2}, WARNING)).pid == 2


async def test_a_deaf_disk_does_not_hold_the_end_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is stuck in the kernel: who waits is told so, within the bound."""
    monkeypatch.setattr("boxlited.store.writer.FINISH_SECONDS", 0.05)
    (row,) = await filled(path)
    store = Store.at(path)
    problems: list[DatabaseError] = []
    told = trio.Event()

    async def update() -> None:
        try:
            await store.update(row.box_id, {"pid": 1})
        except DatabaseError as error:
            problems.append(error)
            if len(problems) == 2:
                told.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, trio.open_nursery() as life:
            await life.start(store.run)
            async with locked(store, path, milliseconds=1000):  # the lock holds the thread that long
                nursery.start_soon(update)
                nursery.start_soon(update)
                while not store._writer._batch:
                    await trio.lowlevel.checkpoint()
                life.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await told.wait()
    assert len(problems) == 2
    assert "closed" in problems[0].message
