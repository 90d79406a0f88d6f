"""Replies of handlers: plain values, and the one place that turns them into ASGI messages.

A handler returns a `Reply` (a whole body) or a `StreamReply` (see streaming.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"


def _plain(value: Any) -> str:
    """A subclass of str, such as BoxID, is none to msgspec."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


encoder = msgspec.json.Encoder(enc_hook=_plain)


@dataclass(slots=True)
class Reply:
    """A reply with its whole body. `content_type` is left out when there is no body."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Headers = ()


def json_reply(value: object, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(status, encoder.encode(value), JSON, headers)


def no_content() -> Reply:
    return Reply(204)


async def send_reply(send: Send, reply: Reply, *, more_body: bool = False) -> None:
    """`more_body` keeps the exchange open: nothing is sent after it, but input can be read."""
    headers = list(reply.headers)
    if reply.body:
        headers.append((b"content-type", reply.content_type))
    if reply.status != 204:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": more_body})
