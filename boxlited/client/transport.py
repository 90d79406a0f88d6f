"""HTTP calls to the daemon: a request out, decoded JSON or a stream of bytes back.

Owns the translation of what can go wrong into our exceptions. Every call has a deadline for each
silence of the daemon, except a followed stream, which lasts as long as its reader wants.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from boxlited.client.connections import Connections, unix_dial, url_dial
from boxlited.client.errors import connection_lost, from_reply
from boxlited.errors import Internal

READ_BYTES = 64 * 1024
REPLY_HEAD_SECONDS = 30.0

Params = Mapping[str, str | int]


class Transport:
    """May be used by several threads; each call has a connection of its own."""

    def __init__(self, socket: Path, base_url: str | None, token: str | None) -> None:
        self.where = base_url or str(socket)
        dial = url_dial(base_url) if base_url else unix_dial(str(socket))
        self._connections = Connections(self.where, dial)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float,
    ) -> Any:
        """One call; the decoded JSON of a success, or None when it has no body."""
        operation = f"{method} {path}"
        content = None if body is None else json.dumps(body).encode()
        connection = self._connections.take()
        try:
            with _translated(operation):
                reply = self._send(connection, method, path, params, content, headers, timeout_seconds)
                answer = reply.read()
        except BaseException:
            connection.close()
            raise
        self._connections.give_back(connection)
        if not 200 <= reply.status < 300:
            raise from_reply(reply.status, _json_or_none(answer), operation)
        return _decode(answer, operation) if answer else None

    def stream(self, path: str, params: Params | None = None, *, quiet_seconds: float | None = None) -> ByteStream:
        """Open a streamed GET. Returns once the reply's head is here, so that nothing said
        after this call is missed. The caller closes it."""
        operation = f"GET {path}"
        connection = self._connections.take()
        try:
            with _translated(operation):
                reply = self._send(connection, "GET", path, params, None, None, REPLY_HEAD_SECONDS)
                if not 200 <= reply.status < 300:
                    raise from_reply(reply.status, _json_or_none(reply.read()), operation)
                connection.sock.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return ByteStream(connection, reply, operation)

    def close(self) -> None:
        self._connections.close()

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        params: Params | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        timeout_seconds: float,
    ) -> http.client.HTTPResponse:
        connection.sock.settimeout(timeout_seconds)
        target = f"{path}?{urlencode(params)}" if params else path
        kind = {} if content is None else {"Content-Type": "application/json"}
        connection.request(method, target, content, {**self._headers, **kind, **(headers or {})})
        return connection.getresponse()


class ByteStream:
    """The body of a streamed reply: iterate over it once. Read to its end it closes itself."""

    def __init__(self, connection: http.client.HTTPConnection, reply: http.client.HTTPResponse, operation: str) -> None:
        self._connection = connection
        self._reply = reply
        self._operation = operation

    def __iter__(self) -> Iterator[bytes]:
        """Chunks as they arrive. Raises ConnectionLost when the end is not the daemon's word."""
        while chunk := self._next():
            yield chunk
        self.close()

    def _next(self) -> bytes:
        with _translated(self._operation):
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


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    """What breaks an open connection becomes ConnectionLost."""
    try:
        yield
    except TimeoutError as error:
        raise connection_lost(operation, "it took too long") from error
    except http.client.IncompleteRead as error:
        raise connection_lost(operation, "the connection broke") from error
    except (OSError, http.client.HTTPException) as error:
        raise connection_lost(operation, str(error) or type(error).__name__) from error


def _json_or_none(content: bytes) -> object:
    try:
        value: object = json.loads(content)
    except ValueError:
        return None
    return value


def _decode(content: bytes, operation: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise Internal(f"{operation}: the answer is not JSON; is this really boxlited?") from error
