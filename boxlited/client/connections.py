"""Connections to the daemon: over its unix socket, or to a URL.

On the standard library: httpx and what it brings cost 0.1 s to import, which is half of what
`boxctl ps` takes. Owns the one difference that matters for an error's message: not connected
(nothing was sent) or connected and lost (it may have been).
"""

from __future__ import annotations

import http.client
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from boxlited.client.errors import connection_lost, no_daemon, socket_forbidden
from boxlited.errors import InvalidArgument

CONNECT_SECONDS = 5.0
UNIX_HOST = "boxlited"
_FULL_QUEUE_PAUSE_SECONDS = 0.01

Dial = Callable[[], http.client.HTTPConnection]


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__(UNIX_HOST)
        self._path = path

    def connect(self) -> None:
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self.sock = self._connected()
                return
            except BlockingIOError:  # EAGAIN: the daemon's queue of connections is full
                if time.monotonic() >= end:
                    raise
                time.sleep(_FULL_QUEUE_PAUSE_SECONDS)

    def _connected(self) -> socket.socket:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(CONNECT_SECONDS)
            connecting.connect(self._path)
        except BaseException:
            connecting.close()
            raise
        return connecting


class Connections:
    """Hands out open connections and takes back the ones that can be used again."""

    def __init__(self, where: str, host: str, dial: Dial) -> None:
        self.where = where
        self.host = host  # as the header has it
        self._dial = dial
        self._idle: list[http.client.HTTPConnection] = []

    def take(self) -> http.client.HTTPConnection:
        """Raises NoDaemon or SocketForbidden; then nothing was sent."""
        while self._idle:
            connection = self._idle.pop()
            if not _ended(connection):
                return connection
            connection.close()
        connection = self._dial()
        try:
            connection.connect()
        except PermissionError as error:
            raise socket_forbidden(self.where) from error
        except OSError as error:
            raise no_daemon(self.where) from error
        return connection

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        if connection.sock is not None:
            self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _ended(connection: http.client.HTTPConnection) -> bool:
    """An idle connection with something to read has been closed by the other side."""
    return ready(connection.sock, select.POLLIN, 0)


def ready(sock: socket.socket, what: int, seconds: float) -> bool:
    """Whether a socket can be read from (POLLIN) or written to (POLLOUT) within so many seconds."""
    poll = select.poll()
    poll.register(sock, what)
    return bool(poll.poll(seconds * 1000))


@contextmanager
def translated(operation: str, broken: tuple[type[Exception], ...]) -> Iterator[None]:
    """What breaks an open connection (`broken`, and a deadline) becomes ConnectionLost."""
    try:
        yield
    except TimeoutError as error:
        raise connection_lost(operation, "it took too long") from error
    except http.client.IncompleteRead as error:
        raise connection_lost(operation, "the connection broke") from error
    except broken as error:
        raise connection_lost(operation, str(error) or "the connection broke") from error


def unix_connections(path: str) -> Connections:
    return Connections(path, UNIX_HOST, lambda: UnixConnection(path))


def url_connections(url: str) -> Connections:
    address = url_address(url)
    kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
    return Connections(url, address.header, lambda: kind(address.host, address.port, timeout=CONNECT_SECONDS))


class Address(NamedTuple):
    secure: bool
    host: str
    port: int

    @property
    def header(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def url_address(url: str) -> Address:
    """Raises InvalidArgument when it is not http://HOST[:PORT] or https://HOST[:PORT]."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"{url!r} is not an address: {error}") from error
    if parts.scheme not in {"http", "https"} or not host or parts.path not in {"", "/"}:
        raise InvalidArgument(f"{url!r} is not an address: expected such as http://127.0.0.1:8100")
    secure = parts.scheme == "https"
    return Address(secure, host, port or (443 if secure else 80))
