"""One HTTP connection: hypercorn's server for it, held to HTTP/1.1 and to bounded waits.

Owns what differs from hypercorn: no upgrade to HTTP/2, targets that are whole URLs, no write without an end, errors
of the protocol in the shape of the contract, and a way to close the connection from outside.
"""

from __future__ import annotations

import re
import secrets
import select
from http import HTTPStatus
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from boxlited.api.problems import error_reply
from boxlited.errors import InvalidArgument

SEND_SECONDS = 30.0  # a client that takes nothing for so long is cut
KEEP_ALIVE_SECONDS = 120.0
PING_SECONDS = 15.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
NEWCOMER_SECONDS = 1.0  # how long after its connect a client may take to ask, although the server stops

_ABSOLUTE_FORM = re.compile(rb"https?://(?P<authority>[^/?#@]+)(?P<rest>(?:[/?].*)?)", re.IGNORECASE)


def make_config() -> Config:
    """Limits of every connection. No access log, no error log: the app has its own."""
    config = Config()
    config.errorlog = None
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_max_requests = 2**31
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.h11_max_incomplete_size = 64 * 1024
    config.websocket_ping_interval = PING_SECONDS
    config.websocket_max_message_size = MAX_MESSAGE_BYTES
    return config


class BoundedStream:
    """A socket stream whose writes end. Hypercorn shields its writes from cancellation."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose

    async def send_all(self, data: bytes) -> None:
        """Raises BrokenResourceError when the peer is gone or does not read."""
        with trio.move_on_after(SEND_SECONDS) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            self.abort()  # or the reading side would wait for this client for ever
            raise trio.BrokenResourceError("the client does not read")

    def is_gone(self) -> bool:
        """Whether the peer has closed, though what it sent before may lie there unread."""
        if self.socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Close at once. Whoever waits for this socket is woken with ClosedResourceError."""
        self.socket.close()


class Http1(H11Protocol):
    """Head and body of a reply leave in one write; what is empty is not written at all."""

    _head = b""  # of a reply whose body follows at once
    _has_refused = False  # a handshake, and so the connection

    async def _send_h11_event(self, event: Any) -> None:
        try:
            data = self._head + (self.connection.send(event) or b"")
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        self._head = b""
        if isinstance(event, h11.Response) and any(name == b"content-length" for name, _ in event.headers):
            self._head = data
        elif data:
            await self.send(RawData(data=data))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn changes to HTTP/2 here when asked to. A server may ignore that, and we do."""

    async def _create_stream(self, request: h11.Request) -> None:
        await super()._create_stream(_in_origin_form(request))

    async def _send_error_response(self, status_code: int) -> None:
        await self._refuse(f"this is not a request that HTTP/1.1 allows, or its head is too large (HTTP {status_code})")

    async def stream_send(self, event: StreamEvent) -> None:
        """Hypercorn refuses a handshake without a word, and keeps the connection; an answer of the app has an id."""
        if self._has_refused:
            return
        named = isinstance(event, Response) and any(name == b"x-request-id" for name, _ in event.headers)
        if isinstance(event, Response) and event.status_code == HTTPStatus.BAD_REQUEST and not named:
            self._has_refused = True
            await self._refuse("this is no handshake of a WebSocket of version 13, or its key is missing")
            await self.send(Closed())
        else:
            await super().stream_send(event)

    async def _refuse(self, message: str) -> None:
        request_id = "req_" + secrets.token_hex(12)
        reply = error_reply(InvalidArgument(message), request_id)
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
        ]
        await self._send_h11_event(h11.Response(status_code=reply.status, headers=headers))
        await self._send_h11_event(h11.Data(data=reply.body))
        await self._send_h11_event(h11.EndOfMessage())


def _in_origin_form(request: h11.Request) -> h11.Request:
    """A target that is a whole URL is taken apart; its authority counts, and no Host beside it (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE_FORM.fullmatch(request.target)
    if match is None:
        return request
    headers = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"host"]
    target = match["rest"] if match["rest"].startswith(b"/") else b"/" + match["rest"]
    return h11.Request(
        method=request.method,
        target=target,
        headers=[*headers, (b"host", match["authority"])],
        http_version=request.http_version,
    )


class ConnectionContext:
    """The worker's context, but for its pause, which ends with the connection: hypercorn's between two pings
    would keep a WebSocket's connection for that long behind its end, and is none at all when the server stops."""

    def __init__(self, worker: WorkerContext) -> None:
        self._worker = worker
        self.ended = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.ended.wait()


class Connection(TCPServer):
    """Serves one accepted stream until either side closes it. `state` reaches the app's scope."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: dict[str, Any],
        stream: BoundedStream,
    ) -> None:
        self._own_context = ConnectionContext(context)
        super().__init__(app, config, cast(Any, self._own_context), state, cast(Any, stream))  # all it uses is there
        self._accepted_at = trio.current_time()
        self._idle_since: float | None = self._accepted_at  # None while a request is served
        self._asked = trio.Event()  # there was a first request

    async def protocol_send(self, event: Event) -> None:
        """Hypercorn starts a task for every pause between requests; a note of the time does as well."""
        if isinstance(event, Updated):
            self._asked.set()
            self._idle_since = trio.current_time() if event.idle else None
        else:
            await super().protocol_send(event)

    async def _close_when_idle(self, scope: trio.CancelScope) -> None:
        """Closes a connection that was idle for long, and any idle one when the server stops."""
        terminated = cast(EventWrapper, self.context.terminated)
        with scope:
            while True:
                idle_since = self._idle_since
                began = trio.current_time() if idle_since is None else idle_since
                with trio.move_on_at(began + self.config.keep_alive_timeout):
                    await terminated.wait()
                if terminated.is_set() and await self._is_asking():
                    return  # a request is under way: its end closes the connection
                if terminated.is_set() or (idle_since is not None and idle_since == self._idle_since):
                    break
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()

    async def _is_asking(self) -> bool:
        """Who has only just connected is given a moment: closing would lose a request that is on its way."""
        with trio.move_on_at(self._accepted_at + NEWCOMER_SECONDS):
            await self._asked.wait()
        return self._idle_since is None

    async def run(self) -> None:
        try:
            address = self.stream.socket.getpeername(), self.stream.socket.getsockname()
            family = self.stream.socket.family
            async with TaskGroup() as task_group:
                self._task_group = task_group
                self.protocol = cast(Any, Http1)(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState(self.state),
                    False,
                    parse_socket_addr(family, address[0]),
                    parse_socket_addr(family, address[1]),
                    self.protocol_send,
                )
                idle = trio.CancelScope()
                task_group.spawn(self._close_when_idle, idle)
                await self._read_data()
                self._own_context.ended.set()
                idle.cancel()  # or the connection would stay for as long as an idle one may
        except OSError:
            pass  # the peer is gone
        finally:
            await self._close()
