"""HTTP calls to the daemon under trio or asyncio: h11 over the streams of anyio.

The asynchronous twin of `transport`; what a call is and what a reply means they share. Every call
is cancelled well: its connection is closed and not used again.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
import h11

from boxlited.client import replies
from boxlited.client.attach_protocol import AttachProtocol
from boxlited.client.calls import TAR, Call
from boxlited.client.connections import CONNECT_SECONDS, UNIX_HOST, ready, translated, url_address
from boxlited.client.errors import no_daemon, socket_forbidden
from boxlited.client.transport import READ_BYTES, REPLY_HEAD_SECONDS

if TYPE_CHECKING:
    from boxlited.client.async_attachment import AsyncLink

_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError, h11.ProtocolError)
_FULL_QUEUE_PAUSE_SECONDS = 0.01


class AsyncConnection:
    """One HTTP connection: a request at a time."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=256 * 1024)

    async def send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            await self.stream.send(data)

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._h11.next_event()
            if event is h11.PAUSED or isinstance(event, h11.Event):
                return event
            try:
                received = await self.stream.receive(READ_BYTES)
            except anyio.EndOfStream:
                received = b""
            self._h11.receive_data(received)

    async def head(self) -> h11.Response:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("it sent no reply")

    async def piece(self) -> bytes:
        """The next piece of the reply's body, b"" at its end."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return b""
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)

    async def body(self) -> bytes:
        parts = []
        while piece := await self.piece():
            parts.append(piece)
        return b"".join(parts)

    def readable(self) -> bool:
        return ready(self.stream.extra(anyio.abc.SocketAttribute.raw_socket), select.POLLIN, 0)

    def reusable(self) -> bool:
        """Whether another request may be sent; then it is prepared for it."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def close(self) -> None:
        await anyio.aclose_forcefully(self.stream)


class AsyncTransport:
    """May be used by several tasks; each call has a connection of its own."""

    def __init__(self, socket: Path, base_url: str | None, token: str | None) -> None:
        self.where = base_url or str(socket)
        self._socket = str(socket)
        self._address = url_address(base_url) if base_url else None
        self._host = self._address.header if self._address else UNIX_HOST
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._idle: list[AsyncConnection] = []

    async def request(self, call: Call[Any]) -> Any:
        async with self._calling() as connection:
            with translated(call.operation, _BROKEN):
                with anyio.fail_after(call.timeout_seconds):
                    reply = await self._exchange(connection, call)
                    answer = await connection.body()
            if connection.reusable():
                self._idle.append(connection)
            else:
                await connection.close()
        return replies.decoded(reply.status_code, answer, call.operation)

    async def upload(self, call: Call[Any], content: AsyncIterable[bytes] | Iterable[bytes]) -> Any:
        """A call whose body is `content`. What is not asynchronous is read in a thread."""
        async with self._calling() as connection:
            with translated(call.operation, _BROKEN):
                await connection.send(self._head(call, {"Content-Type": TAR, "Transfer-Encoding": "chunked"}))
            async with aclosing(_awaited(content)) as pieces:
                async for piece in pieces:
                    with translated(call.operation, _BROKEN):
                        if not await _taken(connection, h11.Data(data=piece), call.timeout_seconds):
                            break
            with translated(call.operation, _BROKEN):
                await _taken(connection, h11.EndOfMessage(), call.timeout_seconds)
                with anyio.fail_after(call.timeout_seconds):
                    reply = await connection.head()
                    answer = await connection.body()
            await connection.close()
        return replies.decoded(reply.status_code, answer, call.operation)

    async def stream(self, call: Call[bytes]) -> AsyncByteStream:
        """Open a streamed GET; returns once the head is here. The caller closes it."""
        async with self._calling() as connection:
            with translated(call.operation, _BROKEN), anyio.fail_after(REPLY_HEAD_SECONDS):
                reply = await self._exchange(connection, call)
                if not replies.is_success(reply.status_code):
                    raise replies.refusal(reply.status_code, await connection.body(), call.operation)
        return AsyncByteStream(connection, reply, call.operation)

    async def upgrade(self, call: Call[bytes]) -> AsyncLink:
        """Open a WebSocket. Raises the daemon's refusal. The caller closes it."""
        from boxlited.client.async_attachment import AsyncLink

        async with self._calling() as connection:
            link = AsyncLink(connection.stream, AttachProtocol(call.operation, self._host, call.target, self._headers))
            with translated(call.operation, _BROKEN), anyio.fail_after(REPLY_HEAD_SECONDS):
                await link.open()
        return link

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[AsyncConnection]:
        """A connection, closed when the block fails or is cancelled."""
        connection = await self._take()
        try:
            yield connection
        except BaseException:
            with anyio.CancelScope(shield=True):
                await connection.close()
            raise

    async def _take(self) -> AsyncConnection:
        """Raises NoDaemon or SocketForbidden; then nothing was sent."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.readable():
                return connection
            await connection.close()
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                return AsyncConnection(await self._dial())
        except PermissionError as error:
            raise socket_forbidden(self.where) from error
        except OSError as error:
            raise no_daemon(self.where) from error

    async def _dial(self) -> anyio.abc.ByteStream:
        if self._address is not None:
            host, port = self._address.host, self._address.port
            if self._address.secure:
                context = ssl.create_default_context()
                return await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=False)
            return await anyio.connect_tcp(host, port)
        while True:
            try:
                return await anyio.connect_unix(self._socket)
            except BlockingIOError:  # EAGAIN: the daemon's queue of connections is full
                await anyio.sleep(_FULL_QUEUE_PAUSE_SECONDS)

    async def _exchange(self, connection: AsyncConnection, call: Call[Any]) -> h11.Response:
        content = replies.content_of(call.body) or b""
        await connection.send(self._head(call, {**call.headers, "Content-Length": str(len(content))}))
        await connection.send(h11.Data(data=content))
        await connection.send(h11.EndOfMessage())
        return await connection.head()

    def _head(self, call: Call[Any], headers: Mapping[str, str]) -> h11.Request:
        every = {"Host": self._host, **self._headers, **headers}
        return h11.Request(method=call.method, target=call.target, headers=list(every.items()))


class AsyncByteStream:
    """The body of a streamed reply: iterate over it once. Read to its end it closes itself."""

    def __init__(self, connection: AsyncConnection, reply: h11.Response, operation: str) -> None:
        self._connection = connection
        self._operation = operation
        self.headers = {name.decode(): value.decode("latin-1") for name, value in reply.headers}

    def __aiter__(self) -> AsyncByteStream:
        return self

    async def __anext__(self) -> bytes:
        """Chunks as they arrive. Raises ConnectionLost when the end is not the daemon's word."""
        chunk = await self.receive()
        if not chunk:
            await self.close()
            raise StopAsyncIteration
        return chunk

    async def receive(self) -> bytes:
        """The next chunk, b"" at the end."""
        with translated(self._operation, _BROKEN):
            return await self._connection.piece()

    async def __aenter__(self) -> AsyncByteStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def close(self) -> None:
        await self._connection.close()


async def _awaited(content: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
        return
    pieces = iter(content)

    def next_piece() -> bytes | None:
        return next(pieces, None)

    read: bytes | None
    while (read := await anyio.to_thread.run_sync(next_piece)) is not None:
        yield read


async def _taken(connection: AsyncConnection, event: h11.Event, seconds: float) -> bool:
    """False when the reply came before: a refusal, after which nobody reads the rest."""
    if connection.readable():
        return False
    try:
        with anyio.fail_after(seconds):
            await connection.send(event)
    except (anyio.BrokenResourceError, ConnectionError):
        return False
    return True
