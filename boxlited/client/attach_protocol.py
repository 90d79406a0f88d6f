"""The WebSocket of an attachment: bytes in, output out, and the frames to send. No I/O (sans-IO).

Owns the frame format of the daemon and the count of payload bytes, with which a lost attachment
goes on. What is received is handed on in pieces as it comes: no message is put together in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import wsproto
from wsproto import events
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from boxlited.client.errors import ConnectionLost, connection_lost, from_reply
from boxlited.client.values import STDERR, STDOUT, Completed, Output
from boxlited.errors import BoxlitedError, Internal

READ_BYTES = 256 * 1024
STDIN_FRAME_BYTES = 64 * 1024  # a resize waits for no more than this
SILENCE_SECONDS = 60.0  # the daemon pings every 15 s
MAX_TEXT_CHARACTERS = 64 * 1024
MAX_REFUSAL_BYTES = 1024 * 1024


class AttachProtocol:
    """One connection. Feed it what was received, b"" at the end; send what `opening`, the frames
    and `take_replies` say. Frames may be made by another thread than the one that feeds."""

    def __init__(self, operation: str, host: str, target: str, headers: Mapping[str, str]) -> None:
        self.accepted = False
        self.exit_code: int | None = None
        self.error_message: str | None = None
        self.payload_bytes = 0
        self.notices: list[str] = []  # errors of which the daemon told and which did not end it
        self._operation = operation
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._opening = self._ws.send(events.Request(host=host, target=target, extra_headers=extra))
        self._replies: list[bytes] = []
        self._channel: int | None = None  # of the message that is being received
        self._text = ""
        self._refusal: tuple[int, list[bytes]] | None = None
        self._closed = False

    # ---- out

    def opening(self) -> bytes:
        return self._opening

    def stdin(self, data: bytes) -> bytes:
        return self._frame(events.BytesMessage(data=data))

    def stdin_eof(self) -> bytes:
        return self._told({"type": "stdin_eof"})

    def resize(self, cols: int, rows: int) -> bytes:
        return self._told({"type": "resize", "cols": cols, "rows": rows})

    def signal(self, number: int) -> bytes:
        return self._told({"type": "signal", "sig": number})

    def closing(self) -> bytes:
        """Nothing when the other side has closed already."""
        try:
            return self._ws.send(events.CloseConnection(code=1000))
        except LocalProtocolError:
            return b""

    def take_replies(self) -> bytes:
        """Answers to pings and to a close, which are to be sent when that does not block."""
        replies, self._replies = self._replies, []
        return b"".join(replies)

    def _told(self, message: dict[str, Any]) -> bytes:
        return self._frame(events.TextMessage(data=json.dumps(message)))

    def _frame(self, event: events.Event) -> bytes:
        try:
            return self._ws.send(event)
        except LocalProtocolError as error:
            raise self.lost("the connection is closed") from error

    # ---- in

    def receive(self, data: bytes) -> list[Output]:
        """Raises ConnectionLost when the connection ends before the command, and the daemon's
        error when it refuses the attachment."""
        outputs: list[Output] = []
        if self.ended:
            return outputs
        try:
            self._ws.receive_data(data or None)
            for event in self._ws.events():
                self._handle(event, outputs)
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise self.lost(str(error) or "the connection broke") from error
        if not outputs:
            self.check_open()
        return outputs

    @property
    def ended(self) -> bool:
        """The command has: no more output will come."""
        return self.exit_code is not None

    def check_open(self) -> None:
        """Raises ConnectionLost when the connection was closed before the command ended."""
        if self._closed and not self.ended:
            raise self.lost("the connection was closed")

    def _handle(self, event: events.Event, outputs: list[Output]) -> None:
        match event:
            case events.BytesMessage():
                self._bytes(event, outputs)
            case events.TextMessage():
                self._characters(event)
            case events.Ping():
                self._replies.append(self._ws.send(event.response()))
            case events.CloseConnection():
                self._close(event)
            case events.AcceptConnection():
                self.accepted = True
            case events.RejectConnection():
                self._refusal = (event.status_code, [])
                if not event.has_body:
                    raise self._refused()
            case events.RejectData():
                self._reject_data(event)

    def _bytes(self, event: events.BytesMessage, outputs: list[Output]) -> None:
        data = bytes(event.data)
        if self._channel is None and data:
            self._channel, data = data[0], data[1:]
        if data and self._channel in (STDOUT, STDERR):
            self.payload_bytes += len(data)
            outputs.append(Output(self._channel, data))
        if event.message_finished:
            self._channel = None

    def _characters(self, event: events.TextMessage) -> None:
        self._text += event.data
        if len(self._text) > MAX_TEXT_CHARACTERS:
            raise RemoteProtocolError("a text message has no end")
        if not event.message_finished:
            return
        text, self._text = self._text, ""
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        if message.get("type") == "exit" and isinstance(message.get("exit_code"), int):
            self.exit_code = message["exit_code"]
            self.error_message = message.get("error_message")
        elif message.get("type") == "error":
            self.notices.append(str(message.get("message")))

    def _close(self, event: events.CloseConnection) -> None:
        self._closed = True
        try:
            self._replies.append(self._ws.send(event.response()))
        except LocalProtocolError:
            pass  # it broke, or we have closed it ourselves

    def _reject_data(self, event: events.RejectData) -> None:
        assert self._refusal is not None
        self._refusal[1].append(bytes(event.data))
        if event.body_finished or sum(map(len, self._refusal[1])) > MAX_REFUSAL_BYTES:
            raise self._refused()

    def _refused(self) -> BoxlitedError:
        assert self._refusal is not None
        status, parts = self._refusal
        try:
            body = json.loads(b"".join(parts))
        except ValueError:
            body = None
        return from_reply(status, body, self._operation)

    def lost(self, cause: str) -> ConnectionLost:
        return connection_lost(self._operation, cause)


class Attached:
    """What an attachment knows over all of its connections; the base of both attachments."""

    def __init__(self, protocol: AttachProtocol, since: int | None) -> None:
        self._protocol = protocol
        self._since = since
        self._stdin_ended = False
        self._earlier_notices: list[str] = []

    @property
    def exit_code(self) -> int | None:
        """As a shell has it: 128 + n after signal n. None until the command has ended."""
        return self._protocol.exit_code

    @property
    def error_message(self) -> str | None:
        """Why the command ended, when not by itself: its time was over, its box has ended."""
        return self._protocol.error_message

    @property
    def notices(self) -> list[str]:
        """Errors that the daemon told of and that ended nothing: output that was lost because nobody
        was attached for long, a resize without a terminal."""
        return self._earlier_notices + self._protocol.notices

    def _account(self) -> int | None:
        """The connection is lost: from where on the next one is to go on."""
        self._earlier_notices += self._protocol.notices
        if self._since is not None:
            self._since += self._protocol.payload_bytes
        return self._since


def stdin_pieces(data: bytes) -> list[bytes]:
    """`data` as it goes into frames."""
    if len(data) <= STDIN_FRAME_BYTES:
        return [data] if data else []
    view = memoryview(data)
    return [bytes(view[start : start + STDIN_FRAME_BYTES]) for start in range(0, len(data), STDIN_FRAME_BYTES)]


def gathered(outputs: Iterable[Output], exit_code: int | None, notices: list[str]) -> Completed:
    """Raises Internal when the daemon has told that output is missing: this is not all of it."""
    assert exit_code is not None, "only a command that has ended is complete"
    if notices:
        raise Internal(f"the command ended with {exit_code}, and its output is not complete: {'; '.join(notices)}")
    parts: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    for channel, data in outputs:
        parts[channel].append(data)
    return Completed(exit_code, b"".join(parts[STDOUT]), b"".join(parts[STDERR]))
