"""One HTTP connection: hypercorn's server for it, held to HTTP/1.1 and to bounded waits.

Owns what differs from hypercorn: no upgrade to HTTP/2, no write without an end, errors of the
protocol in the shape of the contract, and a way to close the connection from outside.
"""

from __future__ import annotations

import secrets
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from boxlited.api.problems import error_reply
from boxlited.errors import InvalidArgument

SEND_SECONDS = 30.0  # a client that takes nothing for so long is cut
KEEP_ALIVE_SECONDS = 120.0


def make_config() -> Config:
    """Limits of every connection. No access log, no error log: the app has its own."""
    config = Config()
    config.errorlog = None
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_max_requests = 2**31
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.h11_max_incomplete_size = 64 * 1024
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

    def abort(self) -> None:
        """Close at once. Whoever waits for this socket is woken with ClosedResourceError."""
        self.socket.close()


class Http1(H11Protocol):
    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn changes to HTTP/2 here when asked to. A server may ignore that, and we do."""

    async def _send_error_response(self, status_code: int) -> None:
        request_id = "req_" + secrets.token_hex(12)
        message = f"this is not a request that HTTP/1.1 allows, or its head is too large (HTTP {status_code})"
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
        super().__init__(app, config, context, state, cast(Any, stream))  # all that it uses is there

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
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass  # the peer is gone
        finally:
            await self._close()
