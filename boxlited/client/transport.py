"""HTTP calls to the daemon: a request out, decoded JSON or a stream of bytes back.

Owns the translation of what can go wrong into our exceptions. Every call has a deadline for each
silence of the daemon, except a followed stream, which lasts as long as its reader wants.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxlited.client import replies
from boxlited.client.calls import TAR, Call
from boxlited.client.connections import translated, unix_connections, url_connections

if TYPE_CHECKING:
    from boxlited.client.attachment import Link

READ_BYTES = 256 * 1024
REPLY_HEAD_SECONDS = 30.0
_BROKEN = (OSError, http.client.HTTPException)


class Transport:
    """May be used by several threads; each call has a connection of its own."""

    def __init__(self, socket: Path, base_url: str | None, token: str | None) -> None:
        self._connections = url_connections(base_url) if base_url else unix_connections(str(socket))
        self.where = self._connections.where
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, call: Call[Any]) -> Any:
        """One call; the decoded JSON of a success, or None when it has no body."""
        connection = self._connections.take()
        try:
            with translated(call.operation, _BROKEN):
                reply = self._send(connection, call, call.timeout_seconds)
                answer = reply.read()
        except BaseException:
            connection.close()
            raise
        self._connections.give_back(connection)
        return replies.decoded(reply.status, answer, call.operation)

    def upload(self, call: Call[Any], content: Iterable[bytes]) -> Any:
        """A call whose body is `content`, as it comes. What `content` raises is raised here."""
        connection = self._connections.take()
        try:
            with translated(call.operation, _BROKEN):
                self._begin_upload(connection, call)
            for piece in content:
                with translated(call.operation, _BROKEN):
                    if piece and not _taken(connection, piece):
                        break
            with translated(call.operation, _BROKEN):
                _taken(connection, b"")
                reply = connection.getresponse()
                answer = reply.read()
        finally:
            connection.close()
        return replies.decoded(reply.status, answer, call.operation)

    def stream(self, call: Call[bytes]) -> ByteStream:
        """Open a streamed GET. Returns once the reply's head is here, so that nothing said
        after this call is missed. The caller closes it."""
        connection = self._connections.take()
        try:
            with translated(call.operation, _BROKEN):
                reply = self._send(connection, call, REPLY_HEAD_SECONDS)
                if not replies.is_success(reply.status):
                    raise replies.refusal(reply.status, reply.read(), call.operation)
                connection.sock.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return ByteStream(connection, reply, call.operation)

    def upgrade(self, call: Call[bytes]) -> Link:
        """Open a WebSocket. Raises the daemon's refusal. The caller closes it."""
        from boxlited.client.attach_protocol import AttachProtocol
        from boxlited.client.attachment import Link

        connection = self._connections.take()
        try:
            protocol = AttachProtocol(call.operation, self._connections.host, call.target, self._headers)
            return Link(connection, protocol, call.operation)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._connections.close()

    def _send(
        self, connection: http.client.HTTPConnection, call: Call[Any], timeout_seconds: float
    ) -> http.client.HTTPResponse:
        connection.sock.settimeout(timeout_seconds)
        connection.request(call.method, call.target, replies.content_of(call.body), self._headed(call.headers))
        return connection.getresponse()

    def _begin_upload(self, connection: http.client.HTTPConnection, call: Call[Any]) -> None:
        connection.sock.settimeout(call.timeout_seconds)
        connection.putrequest(call.method, call.target)
        for name, value in self._headed({"Content-Type": TAR, "Transfer-Encoding": "chunked"}).items():
            connection.putheader(name, value)
        connection.endheaders()

    def _headed(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**self._headers, **headers}


class ByteStream:
    """The body of a streamed reply: iterate over it once. Read to its end it closes itself."""

    def __init__(self, connection: http.client.HTTPConnection, reply: http.client.HTTPResponse, operation: str) -> None:
        self._connection = connection
        self._reply = reply
        self._operation = operation

    @property
    def headers(self) -> dict[str, str]:
        """Of the reply; names in lower case."""
        return {name.lower(): value for name, value in self._reply.headers.items()}

    def __iter__(self) -> Iterator[bytes]:
        """Chunks as they arrive. Raises ConnectionLost when the end is not the daemon's word."""
        while chunk := self._next():
            yield chunk
        self.close()

    def _next(self) -> bytes:
        with translated(self._operation, _BROKEN):
            chunk = self._reply.read1(READ_BYTES)
            if not chunk and self._reply.length:
                raise http.client.IncompleteRead(b"", self._reply.length)
            return chunk

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reply.close()
        self._connection.close()


def _taken(connection: http.client.HTTPConnection, piece: bytes) -> bool:
    """Send one chunk, the last one when it is empty. False when the reply came before or meanwhile:
    a refusal, after which nobody reads the rest."""
    chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
    try:
        if isinstance(connection.sock, ssl.SSLSocket):  # what can be read there may be no reply but TLS's own
            connection.send(chunk)
            return True
        return _sent_unless_answered(connection.sock, memoryview(chunk))
    except (BrokenPipeError, ConnectionResetError):
        return False


def _sent_unless_answered(sock: socket.socket, rest: memoryview) -> bool:
    """Never waits for room alone: a daemon that refuses reads no more, and says so while we would wait."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    patience = sock.gettimeout()
    while rest:
        ready = poll.poll(None if patience is None else patience * 1000)
        if not ready:
            raise TimeoutError
        if ready[0][1] & select.POLLIN:
            return False
        with suppress(BlockingIOError):
            rest = rest[sock.send(rest, socket.MSG_DONTWAIT) :]
    return True
