"""A command's output, as it comes, and the way to its stdin: the synchronous attachment.

One thread may iterate while others send. Reading never waits for sending: a command that waits
until its output is read, and reads no stdin meanwhile, would otherwise stop for ever.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from boxlited.client.attach_protocol import (
    READ_BYTES,
    SILENCE_SECONDS,
    Attached,
    AttachProtocol,
    gathered,
    stdin_pieces,
)
from boxlited.client.connections import ready
from boxlited.client.errors import ConnectionLost, connection_lost
from boxlited.client.values import Completed, Output
from boxlited.errors import BoxlitedError

if TYPE_CHECKING:
    import http.client

Reopen = Callable[[int | None, Callable[[], bool]], "Link"]  # (since, whether it is given up)

OPENING_SECONDS = 30.0
CLOSING_SECONDS = 1.0


class Link:
    """One open WebSocket. Opening it raises ConnectionLost or the daemon's refusal."""

    def __init__(self, connection: http.client.HTTPConnection, protocol: AttachProtocol, operation: str) -> None:
        self.protocol = protocol
        self._connection = connection
        self._socket: socket.socket = connection.sock
        self._operation = operation
        self._sending = threading.Lock()
        self._outputs: list[Output] = []
        self._socket.settimeout(None)
        self._send_all(protocol.opening())
        while not protocol.accepted:
            self._outputs += protocol.receive(self._read(OPENING_SECONDS))

    def receive(self) -> list[Output]:
        """What was written since; an empty list at the end of the command."""
        outputs, self._outputs = self._outputs, []
        while not outputs and not self.protocol.ended:
            self.protocol.check_open()
            outputs = self.protocol.receive(self._read(SILENCE_SECONDS))
            self._reply()
        return outputs

    def send(self, frame: Callable[[AttachProtocol], bytes]) -> None:
        """Waits until the daemon has taken it, however long the command does not read."""
        with self._sending:
            self._send_all(self.protocol.take_replies() + frame(self.protocol))

    def _reply(self) -> None:
        """Answers to pings, when that does not wait; else they go with the next frame."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            if ready(self._socket, select.POLLOUT, 0):
                self._send_all(self.protocol.take_replies())
        except ConnectionLost:
            pass  # reading tells it better: it knows whether the command had ended
        finally:
            self._sending.release()

    def _read(self, seconds: float) -> bytes:
        pending = getattr(self._socket, "pending", None)  # of TLS: read already, not seen by poll
        try:
            if not (pending and pending()) and not ready(self._socket, select.POLLIN, seconds):
                raise connection_lost(self._operation, f"it was silent for {seconds:g} s")
            return self._socket.recv(READ_BYTES)
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            raise connection_lost(self._operation, str(error)) from error

    def _send_all(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise connection_lost(self._operation, str(error)) from error

    def close(self) -> None:
        """Wakes whoever reads or sends."""
        if self._sending.acquire(blocking=False):
            try:
                self._say_goodbye()
            finally:
                self._sending.release()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _say_goodbye(self) -> None:
        with suppress(OSError, ValueError):
            self._socket.settimeout(CLOSING_SECONDS)
            self._socket.sendall(self.protocol.closing())


class Attachment(Attached):
    """Iterate over the output; it ends with the command, and then `exit_code` is known.

    With `reconnect`, a lost connection is opened again and goes on where it broke: no output is
    lost or told twice. What was being sent to stdin at that moment may be lost.
    """

    def __init__(
        self,
        open_link: Callable[[int | None], Link],
        reopen_link: Reopen | None,
        since: int | None,
    ) -> None:
        self._reopen = reopen_link
        self._closed = False
        self._link = open_link(since)
        super().__init__(self._link.protocol, since)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Output]:
        """Raises ConnectionLost when the connection breaks (and, with `reconnect`, stays broken)."""
        while True:
            try:
                outputs = self._link.receive()
            except ConnectionLost:
                if self._closed:
                    return
                if self._reopen is None:
                    raise
                if not self._open_again(self._reopen):
                    return
                continue
            if not outputs:
                return
            yield from outputs

    def _open_again(self, reopen: Reopen) -> bool:
        """False when it was closed meanwhile."""
        self._link.close()
        since = self._account()
        try:
            self._link = reopen(since, lambda: self._closed)
        except BoxlitedError:
            if self._closed:
                return False
            raise
        self._protocol = self._link.protocol
        if self._closed:
            self._link.close()
            return False
        if self._stdin_ended:
            with suppress(ConnectionLost):
                self.send_eof()
        return True

    def send(self, data: bytes) -> None:
        """To stdin. Waits while the command does not read."""
        for piece in stdin_pieces(data):
            self._link.send(partial(AttachProtocol.stdin, data=piece))

    def send_eof(self) -> None:
        self._stdin_ended = True
        self._link.send(AttachProtocol.stdin_eof)

    def resize(self, cols: int, rows: int) -> None:
        self._link.send(lambda protocol: protocol.resize(cols, rows))

    def signal(self, number: int) -> None:
        self._link.send(lambda protocol: protocol.signal(number))

    def close(self) -> None:
        """Leaves the command running. May be called by another thread, and ends the iteration."""
        self._closed = True
        self._link.close()


def completed(attachment: Attachment, stdin: bytes) -> Completed:
    """Everything that the command wrote until its end, given `stdin` and then the end of it."""
    feeder = threading.Thread(target=_feed, args=(attachment, stdin), daemon=True)
    feeder.start()
    try:
        return gathered(list(attachment), attachment.exit_code, attachment.notices)
    finally:
        attachment.close()
        feeder.join()


def _feed(attachment: Attachment, stdin: bytes) -> None:
    with suppress(ConnectionLost):  # the command has ended, or the reader tells of it
        attachment.send(stdin)
        attachment.send_eof()
