"""Commands of the supervisor: carried to their end, whatever becomes of those who asked."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from boxlited.errors import Internal, InvalidState
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
