"""Archives on their way between the API and the guest in a box that packs and unpacks them.

Flat in memory: whoever is slower makes the other wait. An archive that is cut on its way leaves nothing
behind in the box, and never looks whole to a client.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from boxlited.errors import BoxlitedError, EngineUnavailable, Timeout
from boxlited.model import Box
from boxlited.shim.frames import MAX_PAYLOAD, Kind
from boxlited.supervisor.channel import Channel
from boxlited.supervisor.executions import Executions

STALL_SECONDS = 60.0  # without a byte from the box, or to it
STORE_SECONDS = 600.0  # from the end of an archive to the box's answer: it is on the box's disk then


class Transfers:
    """`limits` are what an archive into a box may hold, as the archives package names them."""

    def __init__(self, executions: Executions, limits: dict[str, int]) -> None:
        self._executions = executions
        self._limits = limits

    async def put(
        self, box: Box, path: str, overwrite: bool, chunks: AsyncIterator[bytes], source_is_dir: bool | None
    ) -> None:
        """Unpack an archive below `path`: all of it or nothing.

        Raises the box's refusal, what `chunks` does, and Timeout for a box that neither takes nor answers.
        """
        request = {"path": path, "overwrite": overwrite, "source_is_dir": source_is_dir, "limits": self._limits}
        async with self._executions.channel(box) as channel:
            await _ask(channel, op="put_files", **request)
            feeding = _Feeding(channel, chunks)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feeding.run, nursery.cancel_scope)
                await feeding.hear()
                nursery.cancel_scope.cancel()
        if feeding.error is not None:
            raise feeding.error

    @asynccontextmanager
    async def get(self, box: Box, path: str, follow_symlinks: bool) -> AsyncIterator[AsyncIterator[bytes]]:
        """The archive of `path`, in pieces. Raises the box's refusal before there is any."""
        async with self._executions.channel(box) as channel:
            await _ask(channel, op="get_files", path=path, follow_symlinks=follow_symlinks)
            with trio.move_on_after(STALL_SECONDS) as scope:
                await channel.reply()
            if scope.cancelled_caught:
                raise Timeout(f"the box said nothing about {path!r} for {STALL_SECONDS:g} s")
            async with aclosing(_pieces(channel, path)) as pieces:
                yield pieces


class _Feeding:
    """Sends the archive while it listens for a refusal; the first trouble of either side is kept in `error`."""

    def __init__(self, channel: Channel, chunks: AsyncIterator[bytes]) -> None:
        self.error: BoxlitedError | None = None
        self._channel = channel
        self._chunks = chunks

    async def run(self, scope: trio.CancelScope) -> None:
        try:
            async for chunk in self._chunks:
                for start in range(0, len(chunk), MAX_PAYLOAD):
                    if not await self._send(Kind.DATA, chunk[start : start + MAX_PAYLOAD]):
                        return
            if await self._send(Kind.END):
                await trio.sleep(STORE_SECONDS)
                raise Timeout(f"the box did not say within {STORE_SECONDS:g} s that it has stored the archive")
        except BoxlitedError as error:  # of the client, too: without an END the box keeps nothing
            self.error = error
            scope.cancel()

    async def _send(self, kind: Kind, data: bytes = b"") -> bool:
        """False when the box takes no more: it has answered already. Raises Timeout."""
        with trio.move_on_after(STALL_SECONDS) as scope:
            try:
                await self._channel.send(kind, data)
            except EngineUnavailable:
                return False
        if scope.cancelled_caught:
            raise Timeout(f"the box took nothing of the archive for {STALL_SECONDS:g} s")
        return True

    async def hear(self) -> None:
        try:
            await self._channel.reply()
        except BoxlitedError as error:
            self.error = self.error or error


async def _ask(channel: Channel, **request: object) -> None:
    await channel.send(Kind.REQUEST, json.dumps(request).encode())


async def _pieces(channel: Channel, path: str) -> AsyncGenerator[bytes, None]:
    while True:
        with trio.move_on_after(STALL_SECONDS) as scope:
            found = await channel.receive()
        if scope.cancelled_caught:
            raise Timeout(f"the box sent nothing more of {path!r} for {STALL_SECONDS:g} s")
        if found is None or found[0] not in (Kind.DATA, Kind.END):
            raise EngineUnavailable(f"the archive of {path!r} was cut: the box may have ended")
        if found[0] == Kind.END:
            return
        yield found[1]
