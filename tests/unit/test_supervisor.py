"""Commands of the supervisor: carried to their end, whatever becomes of those who asked."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from boxlited.api.prometheus import exposition
from boxlited.errors import Internal, InvalidState
from boxlited.store.store import Store
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.supervisor import Supervisor


def supervisor_in(nursery: trio.Nursery) -> Supervisor:
    """Only the part that carries commands."""
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._nursery = nursery
    return supervisor


async def test_a_command_goes_on_when_its_caller_has_gone(autojump_clock: trio.testing.MockClock) -> None:
    ended = trio.Event()

    async def command() -> None:
        await trio.sleep(2)
        ended.set()

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1) as caller:
            await supervisor_in(nursery)._carry(command)
        assert caller.cancelled_caught
        assert not ended.is_set()
        await ended.wait()


async def test_a_command_that_fails_fails_for_its_caller_alone() -> None:
    async def command() -> None:
        raise InvalidState("no")

    async with trio.open_nursery() as nursery:
        with pytest.raises(InvalidState, match="no"):
            await supervisor_in(nursery)._carry(command)
        assert not nursery.cancel_scope.cancel_called


async def test_a_command_that_the_end_of_the_daemon_cuts_is_not_said_to_be_done() -> None:
    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(Internal, match="not finished"):
                await supervisor_in(nursery)._carry(trio.sleep_forever)

        callers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_what_only_grows_is_a_counter_for_prometheus_and_what_may_shrink_a_gauge(tmp_path: Path) -> None:
    """Of every number that the daemon has: a new one has to be put here, and thought about."""
    store = Store.at(tmp_path / "boxlited.db")
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._store, supervisor._ledger = store, Ledger(store, lambda _handle: None)
    supervisor._spawner = cast(Any, SimpleNamespace(restarts=0))
    text = exposition(supervisor.metrics()).decode()
    types = dict(re.findall(r"^# TYPE boxlited_(\w+) (\w+)$", text, re.MULTILINE))
    gauges = {name for name, kind in types.items() if kind == "gauge"}
    assert gauges == {"boxes_running", "boxes", "pending_writes", "store_pending", "store_largest_batch"}
    assert len(types) > len(gauges) + 10
