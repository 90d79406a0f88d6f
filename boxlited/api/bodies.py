"""Request bodies: read whole and bounded, handed on in pieces, or refused without harm to the connection.

The web server hands a body on through a short queue and waits when nobody takes it, so a body is
always read to its end, or its connection is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio

from boxlited.api.call import MAX_BODY_BYTES, Call
from boxlited.api.problems import BodyRefused
from boxlited.api.replies import Receive
from boxlited.errors import InvalidArgument, ResourceExhausted

BODY_SECONDS = 30.0
STALL_SECONDS = 60.0
LINGER_SECONDS = 2.0


def has_body(call: Call) -> bool:
    length = call.header(b"content-length")
    return length not in (None, "0") or call.header(b"transfer-encoding") is not None


async def read_body(call: Call) -> bytes:
    """The whole body. Raises BodyRefused when it is too big or too slow."""
    length = call.header(b"content-length")
    if not has_body(call):
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


class BodyStream(AsyncIterator[bytes]):
    """A body in pieces, as fast as they are taken. Its end is bounded by size, not by time."""

    def __init__(self, call: Call, max_bytes: int) -> None:
        """Raises InvalidArgument when there is no body, ResourceExhausted when it says that it is too large."""
        if not call.body_is_open:
            raise InvalidArgument("the body is missing: send a tar archive")
        self._call = call
        self._max_bytes = max_bytes
        self._taken = int(call.header(b"content-length") or 0)
        self._check()
        self._taken = 0

    def _check(self) -> None:
        if self._taken > self._max_bytes:
            raise ResourceExhausted(
                f"the body is larger than files.max_bytes = {self._max_bytes} bytes: send it in parts"
            )

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Raises InvalidArgument when the client goes or stalls, ResourceExhausted when it is too large."""
        while self._call.body_is_open:
            message = None
            with trio.move_on_after(STALL_SECONDS):
                message = await self._call.receive()
            if message is None:
                raise InvalidArgument(f"no byte of the body came for {STALL_SECONDS:.0f} s")
            if message["type"] == "http.disconnect":
                raise InvalidArgument("the client went away before its body was complete")
            self._call.body_is_open = message["more_body"]
            self._taken += len(message["body"])
            self._check()
            if message["body"]:
                data: bytes = message["body"]
                return data
        raise StopAsyncIteration

    async def finish(self) -> None:
        """Takes what nobody asked for, so that the connection can be used again."""
        async for _ in self:
            pass


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
