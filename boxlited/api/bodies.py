"""Request bodies: read whole and bounded, or refused without harm to the connection.

The web server hands a body on through a short queue and waits when nobody takes it, so a body is
always read to its end, or its connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from boxlited.api.call import MAX_BODY_BYTES, Call
from boxlited.api.problems import BodyRefused
from boxlited.api.replies import Receive
from boxlited.errors import InvalidArgument

BODY_SECONDS = 30.0
LINGER_SECONDS = 2.0


async def read_body(call: Call) -> bytes:
    """The whole body. Raises BodyRefused when it is too big or too slow."""
    length = call.header(b"content-length")
    if length is None and call.header(b"transfer-encoding") is None:
        return b""
    if length is not None and int(length) > MAX_BODY_BYTES:
        raise _too_big()
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        while True:
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise InvalidArgument("the client went away before its body was complete")
            body += message["body"]
            if len(body) > MAX_BODY_BYTES:
                raise _too_big()
            if not message["more_body"]:
                return bytes(body)
    raise BodyRefused(f"the body was not complete after {BODY_SECONDS:.0f} s")


def _too_big() -> BodyRefused:
    return BodyRefused(f"the body is larger than {MAX_BODY_BYTES} bytes")


async def linger(receive: Receive, abort: Callable[[], None] | None) -> None:
    """After a refusal: let the client read it, then close the connection.

    A socket that is closed with unread input resets, and the client would lose the reply.
    """
    with trio.move_on_after(LINGER_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message["more_body"]:
                break
    if abort is not None:
        abort()
    with trio.move_on_after(LINGER_SECONDS):  # what was queued before the connection was closed
        while (await receive())["type"] != "http.disconnect":
            pass
