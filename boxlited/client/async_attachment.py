"""A command's output, as it comes, and the way to its stdin, under trio or asyncio.

The asynchronous twin of `attachment`. One task may iterate while others send; reading never waits
for sending. A sending that is cancelled in the middle of a frame breaks the connection.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio
import anyio.abc

from boxlited.client.attach_protocol import (
    READ_BYTES,
    SILENCE_SECONDS,
    Attached,
    AttachProtocol,
    gathered,
    stdin_pieces,
)
from boxlited.client.attachment import CLOSING_SECONDS
from boxlited.client.connections import ready
from boxlited.client.errors import ConnectionLost
from boxlited.client.values import Completed, Output
from boxlited.errors import BoxlitedError

_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
Reopen = Callable[[int | None], Awaitable["AsyncLink"]]


class AsyncLink:
    """One WebSocket; `open` it first."""

    def __init__(self, stream: anyio.abc.ByteStream, protocol: AttachProtocol) -> None:
        self.protocol = protocol
        self._stream = stream
        self._sending = anyio.Lock()
        self._outputs: list[Output] = []

    async def open(self) -> None:
        """Raises the daemon's refusal, and what breaks a stream."""
        await self._stream.send(self.protocol.opening())
        while not self.protocol.accepted:
            self._outputs += self.protocol.receive(await self._read())

    async def receive(self) -> list[Output]:
        """What was written since; an empty list at the end of the command."""
        outputs, self._outputs = self._outputs, []
        while not outputs and not self.protocol.ended:
            self.protocol.check_open()
            outputs = self.protocol.receive(await self._read())
            await self._reply()
        return outputs

    async def send(self, frame: Callable[[AttachProtocol], bytes]) -> None:
        """Waits until the daemon has taken it, however long the command does not read."""
        async with self._sending:
            data = self.protocol.take_replies() + frame(self.protocol)
            try:
                await self._stream.send(data)
            except _BROKEN as error:
                raise self.protocol.lost(str(error) or "the connection broke") from error

    async def _reply(self) -> None:
        """Answers to pings, when that does not wait; else they go with the next frame."""
        raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
        if self._sending.locked() or not ready(raw, select.POLLOUT, 0):
            return
        replies = self.protocol.take_replies()
        if replies:
            with suppress(*_BROKEN):  # reading tells it better: it knows whether the command had ended
                async with self._sending:
                    await self._stream.send(replies)

    async def _read(self) -> bytes:
        try:
            with anyio.fail_after(SILENCE_SECONDS):
                return await self._stream.receive(READ_BYTES)
        except anyio.EndOfStream:
            return b""
        except TimeoutError as error:
            raise self.protocol.lost(f"it was silent for {SILENCE_SECONDS:g} s") from error
        except _BROKEN as error:
            raise self.protocol.lost(str(error) or "the connection broke") from error

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            if not self._sending.locked():
                with anyio.move_on_after(CLOSING_SECONDS), suppress(*_BROKEN):
                    await self._stream.send(self.protocol.closing())
            await anyio.aclose_forcefully(self._stream)


class AsyncAttachment(Attached):
    """As `Attachment`: `async for channel, data in attachment`."""

    def __init__(self, link: AsyncLink, reopen: Reopen | None, since: int | None) -> None:
        super().__init__(link.protocol, since)
        self._link = link
        self._reopen = reopen
        self._outputs: deque[Output] = deque()

    async def __aenter__(self) -> AsyncAttachment:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncAttachment:
        return self

    async def __anext__(self) -> Output:
        """Raises ConnectionLost when the connection breaks (and, with `reconnect`, stays broken)."""
        while not self._outputs:
            try:
                self._outputs.extend(await self._link.receive())
            except ConnectionLost:
                if self._reopen is None:
                    raise
                await self._open_again(self._reopen)
                continue
            if not self._outputs:
                raise StopAsyncIteration
        return self._outputs.popleft()

    async def _open_again(self, reopen: Reopen) -> None:
        await self._link.close()
        since = self._account()
        self._link = await reopen(since)
        self._protocol = self._link.protocol
        if self._stdin_ended:
            with suppress(ConnectionLost):
                await self.send_eof()

    async def send(self, data: bytes) -> None:
        """To stdin. Waits while the command does not read."""
        for piece in stdin_pieces(data):
            await self._link.send(partial(AttachProtocol.stdin, data=piece))

    async def send_eof(self) -> None:
        self._stdin_ended = True
        await self._link.send(AttachProtocol.stdin_eof)

    async def resize(self, cols: int, rows: int) -> None:
        await self._link.send(lambda protocol: protocol.resize(cols, rows))

    async def signal(self, number: int) -> None:
        await self._link.send(lambda protocol: protocol.signal(number))

    async def close(self) -> None:
        """Leaves the command running."""
        await self._link.close()


async def completed(attachment: AsyncAttachment, stdin: bytes) -> Completed:
    """Everything that the command wrote until its end, given `stdin` and then the end of it."""
    outputs: list[Output] = []
    failure: BoxlitedError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, attachment, stdin)
        try:
            async for output in attachment:
                outputs.append(output)
        except BoxlitedError as error:  # as itself, and not in a group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return gathered(outputs, attachment.exit_code, attachment.notices)


async def _feed(attachment: AsyncAttachment, stdin: bytes) -> None:
    with suppress(ConnectionLost):  # the command has ended, or the reader tells of it
        await attachment.send(stdin)
        await attachment.send_eof()
