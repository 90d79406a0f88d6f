"""WebSocket requests: refused in the shape of the contract, as no route takes them yet."""

from __future__ import annotations

from boxlited.api.problems import error_reply
from boxlited.api.replies import Send
from boxlited.errors import Unsupported


async def refuse_websocket(send: Send, request_id: str) -> None:
    """Answers the handshake with a plain HTTP reply. Says nothing about the path."""
    reply = error_reply(Unsupported("WebSocket is not supported by this version"), request_id)
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reply.body, "more_body": False})
