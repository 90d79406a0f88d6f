"""The store on real SQLite: durable after the ack, one fsync for many, events after the commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxlited.errors import AlreadyExists, DatabaseError, NotFound
from boxlited.model import Box, BoxID, BoxStatus, Desired, EventDraft, EventKind, IdentityKind, StopCause
from boxlited.store.keys import KEY_SECONDS
from boxlited.store.store import Store
from tests.unit.store_harness import WARNING, box, created, filled, opened, raw, removed

PRAGMAS = ("journal_mode", "synchronous")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "boxlited.db"


async def test_rows_events_and_keys_survive_a_reopen(path: Path) -> None:
    row = box(1)
    async with opened(path) as (store, _):
        await store.insert(row, created(row), idempotency=("key", "print"))
        changed = await store.update(row.box_id, {"status": BoxStatus.RUNNING, "not_applied": ("cpus: no",), "pid": 7})
        assert store.get(row.box_id) == changed == store.by_name("box-1")
    async with opened(path) as (store, _):
        assert store.get(row.box_id) == changed
        assert store.idempotent("key") == (row.box_id, "print")
        assert [event.kind for event in await store.events_since(0)] == [EventKind.CREATED]


async def test_a_commit_waits_for_the_disk(path: Path) -> None:
    """A kill cannot tell it, only a power failure: the log is synced at every commit (FULL is 2)."""
    async with opened(path) as (store, _):
        asked = [await raw(store, lambda db, name=name: db.execute(f"PRAGMA {name}").fetchone()[0]) for name in PRAGMAS]
    assert asked == ["wal", 2]


async def test_every_column_comes_back_as_it_was(path: Path) -> None:
    row = box(
        1,
        status=BoxStatus.FAILED, desired=Desired.RUNNING, updated_at=2.5, started_at=3.0, ended_at=4.0, run_id="ab",
        pid=4194304, boot_id="boot", pidfs_inode=2**62, identity=IdentityKind.LEGACY, started_boottime=0.5,
        ended_boottime=0.25, used_boottime=0.125, stop_cause=StopCause.OOM, failure_reason="é\x00\x1b[31m'\"",
        exit_code=-1, exit_signal="SIGKILL", error_kind="engine", restart_count=3, not_applied=("a", "b"), warning="",
    )  # fmt: skip
    async with opened(path) as (store, _):
        await store.insert(row, created(row))
    async with opened(path) as (store, _):
        assert store.boxes == {row.box_id: row}


async def test_row_06_updates_of_one_box_at_once_change_their_own_columns_alone(path: Path) -> None:
    """Whoever began with an older copy of the row takes nothing of the newer one back."""
    row = box(1)
    async with opened(path) as (store, _):
        await store.insert(row, created(row))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.update, row.box_id, {"status": BoxStatus.RUNNING, "pid": 7})
            nursery.start_soon(store.update, row.box_id, {"desired": Desired.RUNNING})
        changed = store.get(row.box_id)
        assert changed is not None
        assert (changed.status, changed.pid, changed.desired) == (BoxStatus.RUNNING, 7, Desired.RUNNING)
    async with opened(path) as (store, _):
        assert store.get(row.box_id) == changed


async def test_concurrent_writers_share_a_commit(path: Path) -> None:
    async with opened(path) as (store, _):
        rows = [box(number) for number in range(600)]
        async with trio.open_nursery() as nursery:
            for row in rows:
                nursery.start_soon(store.insert, row, created(row))
        stats = store.stats()
        assert (len(store.boxes), stats["writes"]) == (600, 600)
        assert stats["commits"] <= 4
        assert stats["largest_batch"] == 512


async def test_one_wrong_write_fails_alone(path: Path) -> None:
    async with opened(path) as (store, _):
        good, bad = [box(number) for number in range(5)], box(9, created_at=float("nan"))  # NOT NULL refuses it

        async def insert_bad() -> None:
            with pytest.raises(DatabaseError, match="refused a write"):
                await store.insert(bad, created(bad))

        async with trio.open_nursery() as nursery:
            for row in good[:3]:
                nursery.start_soon(store.insert, row, created(row))
            nursery.start_soon(insert_bad)
            for row in good[3:]:
                nursery.start_soon(store.insert, row, created(row))
        assert set(store.boxes) == {row.box_id for row in good}
        assert [event.seq for event in await store.events_since(0)] == [1, 2, 3, 4, 5]
        again = box(9)
        assert await store.insert(again, created(again)) == again  # the name was given back


async def test_a_value_that_cannot_be_stored_is_the_error_of_its_caller_alone(path: Path) -> None:
    row = box(1)
    async with opened(path) as (store, _):
        await store.insert(row, created(row))
        for wrong in ({"pid": 2**64}, {"name": "other"}, {"box_id": "x"}, {"no_such_column": 1}):
            with pytest.raises(ValueError, match=r"fit|never change"):
                await store.update(row.box_id, wrong)
        with pytest.raises(TypeError):
            await store.append_event(EventDraft(kind=EventKind.WARNING, data={"x": object()}))
        assert store.get(row.box_id) == row
        assert (await store.update(row.box_id, {"pid": 5})).pid == 5


async def test_text_that_is_no_utf8_is_escaped_in_memory_as_in_the_file(path: Path) -> None:
    row = box(1)
    bad = b"exec \xff: no".decode("utf-8", "surrogateescape")
    async with opened(path) as (store, _):
        await store.insert(row, created(row))
        event = EventDraft(kind=EventKind.FAILED, data={"reason": bad, "all": [bad]})
        changed = await store.update(row.box_id, {"failure_reason": bad}, event)
        assert changed.failure_reason == "exec \\udcff: no"
    async with opened(path) as (store, _):
        assert store.get(row.box_id) == changed
        assert (await store.events_since(1))[0].data["all"] == ["exec \\udcff: no"]


async def test_events_are_numbered_in_commit_order_and_published_after_it(path: Path) -> None:
    async with opened(path) as (store, _):
        with store.subscribe() as channel:
            rows = [box(number) for number in range(10)]
            async with trio.open_nursery() as nursery:
                for row in rows:
                    nursery.start_soon(store.insert, row, created(row))
            live = [channel.receive_nowait() for _ in rows]
        assert [event.seq for event in live] == list(range(1, 11))
        assert await store.events_since(0) == live
        assert [event.seq for event in await store.events_since(4, limit=3)] == [5, 6, 7]


async def test_memory_is_changed_before_its_event_is_seen(path: Path) -> None:
    row = box(1)
    async with opened(path) as (store, _):
        with store.subscribe() as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.insert, row, created(row))
                await channel.receive()
                assert store.get(row.box_id) == row


async def test_numbers_go_on_after_a_reopen_even_when_the_log_was_emptied(path: Path) -> None:
    async with opened(path) as (store, _):
        for _ in range(3):
            await store.append_event(WARNING)
        await store.prune_events(0)
        assert await store.events_since(0) == []
    async with opened(path) as (store, _):
        event = await store.append_event(WARNING)
        assert event is not None
        assert event.seq == 4


async def test_the_log_keeps_its_newest_events(path: Path) -> None:
    async with opened(path) as (store, _):
        async with trio.open_nursery() as nursery:
            for _ in range(6000):  # more than one piece
                nursery.start_soon(store.append_event, WARNING)
        await store.prune_events(10)
        assert [event.seq for event in await store.events_since(0)] == list(range(5991, 6001))
        await store.prune_events(100)
        assert len(await store.events_since(0)) == 10


async def test_a_slow_subscriber_is_cut_off_and_can_resume(path: Path) -> None:
    async with opened(path) as (store, _):
        with store.subscribe() as slow, store.subscribe() as quick:
            async with trio.open_nursery() as nursery:
                for _ in range(1024):
                    nursery.start_soon(store.append_event, WARNING)
            first = [quick.receive_nowait().seq for _ in range(1024)]
            await store.append_event(WARNING)
            received = [event.seq async for event in slow]
            assert received == first == list(range(1, 1025))
            assert quick.receive_nowait().seq == 1025
        assert [event.seq for event in await store.events_since(received[-1])] == [1025]


async def test_a_name_and_an_id_are_taken_while_their_insert_is_under_way(path: Path) -> None:
    async with opened(path) as (store, _):
        rows = [box(1), box(1), box(1)]
        rows.append(box(2, box_id=rows[0].box_id))
        outcomes: list[str] = []

        async def insert(row: Box) -> None:
            try:
                await store.insert(row, created(row))
                outcomes.append("ok")
            except AlreadyExists:
                outcomes.append("taken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(insert, rows[0])
            while not store.by_name("box-1") and not store.pending_writes:
                await trio.lowlevel.checkpoint()
            for row in rows[1:]:
                nursery.start_soon(insert, row)
        assert sorted(outcomes) == ["ok", "taken", "taken", "taken"]
        assert set(store.boxes) == {rows[0].box_id}
        assert store.stats()["failed_commits"] == 0


async def test_nothing_is_written_to_a_box_whose_removal_is_under_way(path: Path) -> None:
    row = box(1)
    async with opened(path) as (store, _):
        await store.insert(row, created(row))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.delete, row.box_id, removed(row))
            await trio.testing.wait_all_tasks_blocked(0)
            with pytest.raises(NotFound):
                await store.update(row.box_id, {"pid": 1}, WARNING)
            with pytest.raises(NotFound):
                await store.delete(row.box_id, removed(row))
        assert store.by_name(row.name) is None
        assert [event.kind for event in await store.events_since(1)] == [EventKind.REMOVED]
        again = box(1)
        await store.insert(again, created(again))


async def test_a_cancelled_waiter_does_not_undo_its_write(path: Path) -> None:
    row = box(1)
    async with opened(path) as (store, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.insert(row, created(row))
        assert scope.cancelled_caught
    async with opened(path) as (store, _):
        assert row.box_id in store.boxes


async def test_writes_queued_at_the_end_are_finished_and_later_ones_refused(path: Path) -> None:
    rows = [box(number) for number in range(700)]
    store = Store.at(path)
    async with trio.open_nursery() as waiters, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for row in rows:
            waiters.start_soon(store.insert, row, created(row))
        while not store.pending_writes:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    late = box(800)
    with pytest.raises(DatabaseError, match="closed"):
        await store.insert(late, created(late))
    with pytest.raises(DatabaseError, match="closed"):
        await store.events_since(0)
    assert await store.append_event(WARNING) is None
    async with opened(path) as (store, _):
        assert set(store.boxes) == {row.box_id for row in rows}


async def test_a_key_is_forgotten_after_a_day_and_with_its_box(path: Path) -> None:
    now = 1_000_000.0
    one, two = box(1), box(2)
    async with opened(path, clock=lambda: now) as (store, _):
        await store.insert(one, created(one), idempotency=("one", "print"))
        await store.insert(two, created(two), idempotency=("two", "print"))
        await store.delete(two.box_id, removed(two))
        assert (store.idempotent("one"), store.idempotent("two")) == ((one.box_id, "print"), None)
        now += KEY_SECONDS + 1
        assert store.idempotent("one") is None
        await store.prune_events(10)
    async with opened(path, clock=lambda: 1_000_000.0) as (store, _):
        assert store.idempotent("one") is None


async def test_the_view_of_the_boxes_cannot_be_written(path: Path) -> None:
    rows = await filled(path)
    async with opened(path) as (store, _):
        view: Any = store.boxes
        with pytest.raises(TypeError):
            view[rows[0].box_id] = rows[0]


ACTIONS = st.lists(st.tuples(st.sampled_from(["insert", "update", "delete"]), st.integers(0, 5)), max_size=25)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, st.booleans())
def test_memory_equals_the_file_after_any_sequence(
    tmp_path: Path, actions: list[tuple[str, int]], at_once: bool
) -> None:
    path = tmp_path / f"{BoxID.mint()}.db"

    async def act(store: Store, action: str, number: int) -> None:
        row = store.by_name(f"box-{number}")
        try:
            if action == "insert":
                fresh = box(number)
                await store.insert(fresh, created(fresh))
            elif action == "update" and row is not None:
                await store.update(row.box_id, {"restart_count": row.restart_count + 1}, created(row))
            elif action == "delete" and row is not None:
                await store.delete(row.box_id, removed(row))
        except (AlreadyExists, NotFound):
            pass

    async def play() -> dict[BoxID, Box]:
        async with opened(path) as (store, _):
            async with trio.open_nursery() as nursery:
                for action, number in actions:
                    if at_once:
                        nursery.start_soon(act, store, action, number)
                    else:
                        await act(store, action, number)
            assert [event.seq for event in await store.events_since(0)] == list(range(1, store.last_event_seq + 1))
            return dict(store.boxes)

    async def read() -> dict[BoxID, Box]:
        async with opened(path) as (store, _):
            return dict(store.boxes)

    assert trio.run(play) == trio.run(read)
