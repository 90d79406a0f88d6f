"""Archives to a box that does not go on: whoever sends is told so, and does not wait for ever."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from boxlited.errors import BoxlitedError
from boxlited.model import Box, BoxID, BoxSpec
from boxlited.shim.frames import Kind
from boxlited.supervisor.channel import Channel
from boxlited.supervisor.transfers import STALL_SECONDS, STORE_SECONDS, Transfers

BOX = Box(box_id=BoxID("a" * 16), name="box", spec=BoxSpec())


class OneChannel:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @asynccontextmanager
    async def channel(self, _box: Box) -> AsyncIterator[Channel]:
        yield self._channel


async def archive(pieces: int) -> AsyncIterator[bytes]:
    for _ in range(pieces):
        yield bytes(1 << 20)


async def refused(box: Any, work: Callable[[Transfers], Awaitable[None]]) -> str | None:
    """What is refused, or cut, while `box` does as it does with its end of the channel."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box, Channel(theirs))
            message = None
            try:
                await work(Transfers(OneChannel(Channel(ours)), {}))  # type: ignore[arg-type]
            except BoxlitedError as error:
                message = error.message
            nursery.cancel_scope.cancel()
    return message


async def put(box: Any, pieces: int) -> str | None:
    """An archive to the box."""
    return await refused(box, lambda transfers: transfers.put(BOX, "/", True, archive(pieces), None))


async def get(box: Any) -> str | None:
    """An archive from the box, read to its end."""

    async def read(transfers: Transfers) -> None:
        async with transfers.get(BOX, "/etc", False) as pieces:
            async for _piece in pieces:
                pass

    return await refused(box, read)


async def deaf(_channel: Channel) -> None:
    await trio.sleep_forever()


async def dumb(channel: Channel) -> None:
    while await channel.receive() is not None:
        pass


async def slow(channel: Channel) -> None:
    kind: int | None = None
    while kind != Kind.END:
        kind, _ = await channel.receive() or (Kind.END, b"")
        await trio.sleep(STALL_SECONDS * 0.9)
    await trio.sleep(STORE_SECONDS * 0.5)
    await channel.send(Kind.REPLY, b'{"ok": true}')


async def refusing(channel: Channel) -> None:
    await channel.send(Kind.REPLY, b'{"ok": false, "kind": "not_found", "message": "no"}')
    await trio.sleep_forever()


async def test_a_box_that_takes_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    assert "took nothing" in str(await put(deaf, 4))


async def test_a_box_that_takes_all_and_says_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    assert "did not say" in str(await put(dumb, 1))


async def test_a_box_that_is_slow_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    assert await put(slow, 5) is None


async def test_a_refusal_comes_through_while_nothing_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    assert await put(refusing, 4) == "no"


async def test_a_box_that_says_nothing_of_what_it_is_asked_for_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert "said nothing about '/etc'" in str(await get(deaf))


async def test_a_box_that_stops_in_the_midst_of_an_archive_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def halting(channel: Channel) -> None:
        await channel.send(Kind.REPLY, b'{"ok": true}')
        await channel.send(Kind.DATA, bytes(512))
        await trio.sleep_forever()

    assert "/etc" in str(await get(halting))
