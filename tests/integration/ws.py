"""A plain, synchronous client of an execution's WebSocket: what arrives, in order, and nothing hidden.

A socket of its own for each attachment. Answers pings and the Close of the other side.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

PATIENCE_SECONDS = 60.0
STDOUT, STDERR = 1, 2


class Refused(Exception):
    """The handshake was answered with a plain HTTP reply."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:300]!r}")
        self.status = status
        self.error: dict[str, Any] = json.loads(body)["error"]


class End(NamedTuple):
    """Everything of an attachment that was read to its end. `exit` is None when there was no exit frame."""

    stdout: bytes
    stderr: bytes
    exit: dict[str, Any] | None
    errors: list[str]
    code: int | None

    @property
    def exit_code(self) -> int:
        assert self.exit is not None, self
        return int(self.exit["exit_code"])


class Attached:
    """Raises Refused from the constructor."""

    def __init__(
        self, path: Path, box: str, execution_id: str, query: str = "", *, receive_bytes: int = 1 << 18
    ) -> None:
        self.position = 0  # payload bytes that were read
        self._receive_bytes = receive_bytes
        self._ws = WSConnection(ConnectionType.CLIENT)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_SECONDS)
        try:
            self.sock.connect(str(path))
            target = f"/v1/boxes/{box}/executions/{execution_id}/attach{query}"
            self.sock.sendall(self._ws.send(Request(host="boxlited", target=target)))
            self._events = self._read()
            self._await_upgrade()
        except BaseException:
            self.sock.close()
            raise

    def _await_upgrade(self) -> None:
        status, body = 0, b""
        for event in self._events:
            match event:
                case AcceptConnection():
                    return
                case RejectConnection():
                    status = event.status_code
                case RejectData():
                    body += event.data
                    if event.body_finished:
                        raise Refused(status, body)
        raise ConnectionError(f"no upgrade: {status} {body!r}")

    def _read(self) -> Iterator[Event]:
        while True:
            try:
                data = self.sock.recv(self._receive_bytes)
            except ConnectionResetError:
                data = b""
            self._ws.receive_data(data or None)
            for event in self._ws.events():
                if isinstance(event, Ping):
                    self.send(event.response())
                yield event
            if not data:
                return

    # -- sending

    def send(self, event: Event) -> None:
        self.sock.sendall(self._ws.send(event))

    def stdin(self, data: bytes) -> None:
        for start in range(0, len(data), 1 << 16):
            self.send(BytesMessage(data[start : start + (1 << 16)]))

    def say(self, **frame: Any) -> None:
        self.send(TextMessage(json.dumps(frame)))

    def eof(self) -> None:
        self.say(type="stdin_eof")

    # -- reading

    def frames(self) -> Iterator[tuple[int, bytes] | dict[str, Any] | int]:
        """(channel, bytes) of output, the object of a text frame, the code of the Close, which is the last."""
        channel: int | None = None
        text = ""
        for event in self._events:
            match event:
                case BytesMessage():
                    data = bytes(event.data)
                    if channel is None:
                        channel, data = data[0], data[1:]
                    self.position += len(data)
                    yield channel, data
                    channel = None if event.message_finished else channel
                case TextMessage():
                    text += event.data
                    if event.message_finished:
                        yield json.loads(text)
                        text = ""
                case CloseConnection():
                    try:
                        self.send(event.response())
                    except (OSError, LocalProtocolError):  # it is gone already, or went without a word
                        pass
                    yield int(event.code)
                    return

    def until(self, wanted: bytes) -> bytes:
        """Output of both channels up to where `wanted` was in it."""
        found = b""
        for frame in self.frames():
            if isinstance(frame, tuple):
                found += frame[1]
                if wanted in found:
                    return found
        raise AssertionError(f"{wanted!r} did not come, but {found[-2000:]!r}")

    def next_text(self) -> dict[str, Any]:
        for frame in self.frames():
            if isinstance(frame, dict):
                return frame
        raise AssertionError("no text frame came")

    def end(self) -> End:
        output: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        last: dict[str, Any] | None = None
        errors: list[str] = []
        code: int | None = None
        for frame in self.frames():
            match frame:
                case (channel, data):
                    output[channel].append(data)
                case int():
                    code = frame
                case {"type": "exit"}:
                    last = frame
                case _:
                    errors.append(str(frame["message"]))
        self.close()
        return End(b"".join(output[STDOUT]), b"".join(output[STDERR]), last, errors, code)

    def close(self) -> None:
        """At once, as a client that crashes."""
        self.sock.close()

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
