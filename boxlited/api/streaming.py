"""Replies in pieces: Server-Sent Events, followed logs, archives.

A stream ends when its producer ends, its client goes, or the server stops. Memory is bounded: a
producer waits for its client, the transport cuts a client that does not read, and the channel of
live events is closed on a reader that falls behind. A client that was cut asks again from the
last number that it saw, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import trio

from boxlited.api import query
from boxlited.api.call import Call
from boxlited.api.polling import cancel_on_disconnect, cancel_when_set
from boxlited.api.replies import TEXT, Headers, Send, encoder
from boxlited.api.schemas import event_view
from boxlited.errors import EngineUnavailable
from boxlited.model import Event

HEARTBEAT_SECONDS = 15.0
HEAD_SECONDS = 0.05  # how long the first piece may keep the head waiting
REPLAY_PAGE = 500
MAX_SEQ = 2**63 - 1
MAX_TAIL = 10_000_000

Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class StreamReply:
    """`produce` writes until it returns or is cancelled; it is cancelled between writes only.

    With `is_whole` a part is worth nothing: the stream ends properly only when `produce` returned,
    and its head waits for the first piece, so `produce` may set `headers` until then.
    """

    produce: Callable[[Write], Awaitable[None]]
    content_type: bytes = TEXT
    headers: Headers = ()
    is_whole: bool = False


class _Channel:
    """The reply on its way out: its head goes with the first piece, or when it is told to."""

    def __init__(self, send: Send, reply: StreamReply) -> None:
        self._send = send
        self._lock = trio.Lock()
        self._begun = False
        self._reply = reply

    def _head(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", self._reply.content_type), (b"cache-control", b"no-store"), *self._reply.headers]

    async def write(self, data: bytes, more_body: bool = True) -> None:
        # A piece that is cut in half would be lost unseen; the transport bounds this wait.
        with trio.CancelScope(shield=True):
            async with self._lock:
                if not self._begun:
                    self._begun = True
                    await self._send({"type": "http.response.start", "status": 200, "headers": self._head()})
                if data or not more_body:
                    await self._send({"type": "http.response.body", "body": data, "more_body": more_body})
        await trio.lowlevel.checkpoint()

    async def begin_soon(self) -> None:
        """A stream that has nothing to say yet is announced all the same."""
        await trio.sleep(HEAD_SECONDS)
        await self.write(b"")


async def send_stream(call: Call, send: Send, reply: StreamReply) -> None:
    """An error before the first piece is an ordinary error reply; after it the connection is cut."""
    channel = _Channel(send, reply)
    is_complete = not reply.is_whole
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_disconnect, call.receive, nursery.cancel_scope)
        nursery.start_soon(cancel_when_set, call.services.stopping, nursery.cancel_scope)
        if not reply.is_whole:
            nursery.start_soon(channel.begin_soon)
        await reply.produce(channel.write)
        is_complete = True
        nursery.cancel_scope.cancel()
    if not is_complete:
        raise EngineUnavailable("the stream was ended before it was complete; ask again")
    await channel.write(b"", more_body=False)


async def events(call: Call) -> StreamReply:
    """Replays from `since` (or Last-Event-ID, which a reconnecting client sends), then goes live."""
    since = query.integer(call.query, "since", 0, MAX_SEQ)
    last = call.header(b"last-event-id")
    if last is not None:
        since = query.integer({"Last-Event-ID": last}, "Last-Event-ID", 0, MAX_SEQ)

    async def produce(write: Write) -> None:
        await write(b": events of boxlited\n\n")
        with call.supervisor.subscribe_events() as channel:
            sent = call.supervisor.last_event_seq if since is None else await _replay(call, since, write)
            await _live(channel, sent, write)

    return StreamReply(produce, b"text/event-stream")


async def _replay(call: Call, since: int, write: Write) -> int:
    """Everything after `since`; returns the last number sent. The subscription is open already."""
    since = min(since, call.supervisor.last_event_seq)  # a number of another database: only live ones
    while True:
        page = await call.supervisor.events_since(since, REPLAY_PAGE)
        for event in page:
            await write(encode_event(event))
            since = event.seq
        if len(page) < REPLAY_PAGE:
            return since


async def _live(channel: trio.MemoryReceiveChannel[Event], sent: int, write: Write) -> None:
    while True:
        event = None
        with trio.move_on_after(HEARTBEAT_SECONDS):
            try:
                event = await channel.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                await write(b": too slow, or the daemon stops: reconnect with Last-Event-ID\n\n")
                return
        if event is None:
            await write(b": heartbeat\n\n")
        elif event.seq > sent:  # what was replayed can come a second time
            sent = event.seq
            await write(encode_event(event))


def encode_event(event: Event) -> bytes:
    """One message of the stream. The data is JSON on one line, so it cannot break the framing."""
    data = encoder.encode(event_view(event))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.kind.value.encode(), data)


async def logs(call: Call) -> StreamReply:
    """The console log as the box wrote it: raw bytes, not safe for a terminal."""
    follow = query.boolean(call.query, "follow")
    tail = query.integer(call.query, "tail", 0, MAX_TAIL)
    since = query.unix_time(call.query, "since")
    reader = call.supervisor.console_log(call.ref)

    async def produce(write: Write) -> None:
        chunks = reader.read(tail=tail, since=since, follow=follow)
        try:
            async for chunk in chunks:
                await write(chunk)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()  # now, and not when the garbage collector finds it

    return StreamReply(produce, TEXT, ((b"x-content-type-options", b"nosniff"),))
