"""The WebSocket of an execution: output, input and control, as the contract has them.

Refusals answer the handshake with a plain HTTP reply. Output is acknowledged to the shim once it has
left for the client, so that a client whose connection breaks can go on where it was.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import trio

from boxlited.api import query
from boxlited.api.call import Call
from boxlited.api.polling import cancel_when_set
from boxlited.api.ports import AttachmentView
from boxlited.api.problems import NoRoute, error_reply
from boxlited.api.replies import Message, Receive, Send
from boxlited.api.routes_exec import allowed_signal, execution_id_of
from boxlited.api.schemas import ResizeBody
from boxlited.errors import BoxlitedError, InvalidArgument, PermissionDenied
from boxlited.shim.frames import Kind

ATTACH = re.compile(r"/v1/boxes/([^/]+)/executions/([^/]+)/attach")
NORMAL, GOING_AWAY, UNEXPECTED = 1000, 1001, 1011
KILLED = 137
LINGER_SECONDS = 2.0
GONE_POLL_SECONDS = 0.5
MAX_POSITION = 2**63 - 1


async def refuse(send: Send, error: BoxlitedError, request_id: str) -> None:
    """Answer the handshake with an error of the contract: no upgrade."""
    reply = error_reply(error, request_id)
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request_id.encode()),
        *reply.headers,
    ]
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reply.body, "more_body": False})


async def serve_websocket(call: Call, send: Send) -> None:
    """Until the execution ends, the client goes, or the daemon stops. Raises a refusal before the upgrade only."""
    match = ATTACH.fullmatch(call.scope["path"])
    if match is None:
        raise NoRoute(f"{call.path[:256]} is not a WebSocket of this API; see /v1/openapi.json")
    if call.principal is not None and call.principal.read_only:
        raise PermissionDenied("this socket is read-only: attaching can write to a command")
    call.params = {"ref": match[1], "execution_id": match[2]}
    since = query.integer(call.query, "since", 0, MAX_POSITION)
    takes_stdin = query.boolean(call.query, "stdin", default=True)
    async with call.supervisor.attachment(call.ref, execution_id_of(call), since) as stream:
        await _Session(call, send, stream, takes_stdin).run()


class _Session:
    def __init__(self, call: Call, send: Send, stream: AttachmentView, takes_stdin: bool) -> None:
        self._call = call
        self._raw_send = send
        self._stream = stream
        self._takes_stdin = takes_stdin
        self._sending = trio.Lock()
        self._closed = False
        self._gone = False
        self._is_feeding = False

    async def run(self) -> None:
        headers = [(b"x-request-id", self._call.request_id.encode())]
        await self._send({"type": "websocket.accept", "headers": headers})
        self._call.status = 101
        try:
            await self._converse()
        except Exception:
            await self._close(UNEXPECTED, "the daemon's log says why; the command goes on, attach again")
            raise
        finally:
            await self._part()

    async def _converse(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_client, self._call.receive, nursery.cancel_scope)
            nursery.start_soon(self._watch_client, nursery.cancel_scope)
            nursery.start_soon(cancel_when_set, self._call.services.stopping, nursery.cancel_scope)
            await self._hear_shim()
            nursery.cancel_scope.cancel()
        if self._call.services.stopping.is_set():
            await self._close(GOING_AWAY, "the daemon stops: the command goes on, attach again")

    async def _part(self) -> None:
        """Until the client has closed as well. A socket that is closed with unread input resets, and the
        web server waits for ever for whoever does not take its messages."""
        with trio.move_on_after(LINGER_SECONDS):
            await self._hear_end()
        if not self._gone:
            self._call.scope["state"]["abort"]()
            with trio.move_on_after(LINGER_SECONDS):
                await self._hear_end()

    async def _hear_end(self) -> None:
        while not self._gone:
            self._gone = (await self._call.receive())["type"] == "websocket.disconnect"

    # -- to the client

    async def _hear_shim(self) -> None:
        while True:
            found = await self._stream.receive()
            if found is None:
                await self._say({"type": "exit", "exit_code": KILLED, "error_message": "the box has ended"})
                await self._close(NORMAL)
                return
            kind, payload = found
            if kind in (Kind.STDOUT, Kind.STDERR):
                await self._send({"type": "websocket.send", "bytes": b"%c%b" % (kind, payload)})
                await self._stream.acknowledge(len(payload))
            elif kind is Kind.NOTICE:
                await self._say({"type": "error", "message": payload.decode("utf-8", "replace")})
            elif kind is Kind.EXIT:
                await self._say_end(json.loads(payload))
                return

    async def _say_end(self, execution: dict[str, Any]) -> None:
        frame = {"type": "exit", "exit_code": execution["exit_code"]}
        if execution.get("error_message"):
            frame["error_message"] = execution["error_message"]
        await self._say(frame)
        await self._close(NORMAL)

    async def _say(self, frame: dict[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(frame)})

    async def _close(self, code: int, reason: str = "") -> None:
        if not self._closed:
            self._closed = True
            with trio.CancelScope(shield=True):
                await self._raw_send({"type": "websocket.close", "code": code, "reason": reason})

    async def _send(self, message: Message) -> None:
        """Never cut in half: the transport bounds this wait."""
        with trio.CancelScope(shield=True):
            async with self._sending:
                if not self._closed:
                    await self._raw_send(message)
        await trio.lowlevel.checkpoint()

    # -- from the client

    async def _hear_client(self, receive: Receive, scope: trio.CancelScope) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._closed = self._gone = True
                scope.cancel()
                return
            if message["type"] != "websocket.receive" or self._closed:
                continue
            try:
                await self._obey(message)
            except BoxlitedError as error:
                await self._say({"type": "error", "message": error.message})

    async def _watch_client(self, scope: trio.CancelScope) -> None:
        """While input waits for the command nobody reads the socket, and would not see its end."""
        while True:
            await trio.sleep(GONE_POLL_SECONDS)
            if self._is_feeding and self._call.scope["state"]["is_gone"]():
                break
        self._closed = True
        scope.cancel()

    async def _obey(self, message: Message) -> None:
        data: bytes | None = message.get("bytes")
        if data is not None:
            if not self._takes_stdin:
                raise InvalidArgument("this attachment was opened with stdin=false")
            self._is_feeding = True
            try:
                await self._stream.stdin(data)
            finally:
                self._is_feeding = False
            return
        control = _control(message.get("text") or "")
        match control.get("type"):
            case "stdin_eof":
                await self._stream.end_stdin()
            case "resize":
                size = _convert(control, ResizeBody)
                await self._stream.resize(size.cols, size.rows)
            case "signal":
                number = control.get("sig", control.get("signal"))
                if not isinstance(number, int) or isinstance(number, bool):
                    raise InvalidArgument('a signal is {"type": "signal", "sig": NUMBER}')
                await self._stream.signal(allowed_signal(number))
            case other:
                raise InvalidArgument(f"{str(other)[:64]!r} is not resize, signal or stdin_eof")


def _control(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"a text frame holds JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument("a text frame holds one JSON object")
    return value


def _convert(control: dict[str, Any], into: type[ResizeBody]) -> ResizeBody:
    try:
        return msgspec.convert({key: value for key, value in control.items() if key != "type"}, into)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"not a valid {control.get('type')}: {error}") from error
