"""What every request passes before its route: id, log, errors, body, access.

Pure ASGI. `Envelope` is the outermost: nothing gets past it without a request id and a reply in
the shape of the contract. A traceback ends in the log.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from boxlited.api.absent import absent
from boxlited.api.bodies import has_body, linger, read_body
from boxlited.api.call import Call
from boxlited.api.origins import check_origin
from boxlited.api.problems import BodyRefused, error_reply
from boxlited.api.replies import ASGIApp, Message, Receive, Scope, Send, send_reply
from boxlited.api.services import Services
from boxlited.api.websockets import refuse, serve_websocket
from boxlited.errors import (
    BoxlitedError,
    EngineUnavailable,
    Internal,
    PermissionDenied,
    Unauthenticated,
)

SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATHS = frozenset({"/v1/config", "/healthz", "/readyz", "/ui"})  # no token asked
ALWAYS_PATHS = frozenset({"/healthz", "/ui"})  # answered before recovery has ended

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger("boxlited.api")

Handler = Callable[[Call, Send], Coroutine[Any, Any, None]]


class Envelope:
    """Request id, error replies and the record of mutating calls."""

    def __init__(self, inner: Handler, services: Services) -> None:
        self._inner = inner
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._upgrade(scope, receive, send)
            return
        began = time.perf_counter()
        call = Call(scope, receive, self._services)
        call.request_id = _request_id(call.header(b"x-request-id"))

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                if call.method not in SAFE_METHODS:
                    _record(call, began)  # before the client can know of it
                message["headers"].append((b"x-request-id", call.request_id.encode()))
                if self._services.stopping.is_set():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._inner(call, send_marked)
        except BoxlitedError as error:
            _note(call, error)
            await _refuse(call, send_marked, error)
        except Exception as error:  # a bug of ours ends in one failed request, not in the daemon
            await _refuse(call, send_marked, _unexpected(call, error))

    async def _upgrade(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: who is it, is the daemon ready, then the route itself."""
        began = time.perf_counter()
        call = Call({**scope, "method": "GET"}, receive, self._services)
        call.request_id = _request_id(call.header(b"x-request-id"))
        try:
            check_access(call)
            check_ready(call)
            if refusal := absent(call):
                raise refusal
            await serve_websocket(call, send)
        except BoxlitedError as error:
            _note(call, error)
            await self._cannot_upgrade(call, send, error)
        except Exception as error:
            await self._cannot_upgrade(call, send, _unexpected(call, error))
        _record(call, began)

    async def _cannot_upgrade(self, call: Call, send: Send, error: BoxlitedError) -> None:
        if call.status is None:  # after the upgrade, leaving closes the connection with 1011
            call.status = error.status
            await refuse(send, error, call.request_id)


async def _refuse(call: Call, send: Send, error: BoxlitedError) -> None:
    if call.status is not None:
        return  # the reply has begun: leaving it without an end closes the connection
    reply = error_reply(error, call.request_id)
    if isinstance(error, BodyRefused) or call.body_is_open:
        if not isinstance(error, BodyRefused):
            reply.headers = (*reply.headers, (b"connection", b"close"))
        await send_reply(send, reply, more_body=True)
        await linger(call.receive, call.scope["state"].get("abort"))
    else:
        await send_reply(send, reply)


def _note(call: Call, error: BoxlitedError) -> None:
    """A failure of this side. A timeout or a daemon that is not ready is ordinary, and is not noted."""
    if error.status == 500:
        log.warning("api_error", request_id=call.request_id, path=call.path, code=error.code, message=error.message)


def _unexpected(call: Call, error: Exception) -> BoxlitedError:
    """What a client hears of an exception that no one expected. A group of one is that one."""
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    if isinstance(inner, BoxlitedError):
        _note(call, inner)
        return inner
    log.error("api_bug", request_id=call.request_id, method=call.method, path=call.path, exc_info=error)
    return Internal(f"an internal error happened; the daemon's log has it under {call.request_id}")


def _record(call: Call, began: float) -> None:
    principal = call.principal
    log.info(
        "api_call",
        uid=None if principal is None else principal.uid,
        pid=None if principal is None else principal.pid,
        request_id=call.request_id,
        method=call.method,
        path=call.path,
        status=call.status,
        ms=round((time.perf_counter() - began) * 1000, 2),
    )


def _request_id(proposed: str | None) -> str:
    """The client's own id when it is a sane one, else a new one."""
    if proposed is not None and _REQUEST_ID.fullmatch(proposed) is not None:
        return proposed
    return "req_" + secrets.token_hex(12)


class Gate:
    """Reads the body, then asks: who is it, is the daemon ready, may it write?

    The body comes first: the web server waits for whoever does not take it. A route that streams
    its body takes it last, and a refusal before that closes the connection.
    """

    def __init__(self, inner: ASGIApp, streams_body: Callable[[Call], bool]) -> None:
        self._inner = inner
        self._streams_body = streams_body

    async def __call__(self, call: Call, send: Send) -> None:
        if self._streams_body(call):
            call.body_is_open = has_body(call)
        else:
            call.body = await read_body(call)
        check_access(call)
        check_ready(call)
        call.scope["boxlited.call"] = call
        await self._inner(call.scope, call.receive, send)


def check_ready(call: Call) -> None:
    """Raises EngineUnavailable."""
    if not call.supervisor.is_ready and call.path not in ALWAYS_PATHS:
        raise EngineUnavailable("the daemon is still finding out which boxes run; try again soon")


def check_access(call: Call) -> None:
    """Raises Unauthenticated or PermissionDenied."""
    state = call.scope["state"]
    refusal: str | None = state.get("refusal")
    if refusal is not None:
        raise PermissionDenied(refusal)
    token: bytes | None = state.get("token")
    check_origin(call, has_token=token is not None)
    if token is not None and call.path not in OPEN_PATHS:
        _check_token(call, token)
    if call.principal is None:
        raise Unauthenticated("this connection has no principal")
    if call.principal.read_only and call.method not in SAFE_METHODS:
        raise PermissionDenied(f"this socket is read-only: {call.method} is not allowed here")


def _check_token(call: Call, token: bytes) -> None:
    scheme, _, given = (call.header(b"authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), token):
        raise Unauthenticated("this listener asks for a token: send Authorization: Bearer TOKEN")
