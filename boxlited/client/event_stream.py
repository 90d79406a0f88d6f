"""An open stream of events, synchronous; and what one message of it means, for both clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

from boxlited.client.sse import Parser
from boxlited.client.transport import ByteStream
from boxlited.client.values import EventInfo


class EventStream:
    """An open stream of events. Iterate; close it to stop. Ends when the daemon ends it, or with
    event `last`. Without a stream it is empty."""

    def __init__(self, stream: ByteStream | None, last: int | None) -> None:
        self._stream = stream
        self._last = last

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def __iter__(self) -> Iterator[EventInfo]:
        reader = EventReader(self._last)
        for chunk in self._stream or ():
            yield from reader.feed(chunk)
            if reader.ended:
                return


class EventReader:
    """Chunks in, events out, up to number `last`. No I/O: both clients read through it."""

    def __init__(self, last: int | None) -> None:
        self.ended = False
        self._last = last
        self._parser = Parser()

    def feed(self, chunk: bytes) -> Iterator[EventInfo]:
        for message in self._parser.feed(chunk):
            event = event_of(message.event, message.data)
            self.ended = self._last is not None and event.get("seq", 0) >= self._last
            yield event
            if self.ended:
                return


def event_of(kind: str, data: str) -> EventInfo:
    try:
        value = json.loads(data)
    except ValueError:
        value = data
    if isinstance(value, dict) and "kind" in value:
        return cast(EventInfo, value)
    return {"kind": kind, "data": value if isinstance(value, dict) else {"message": value}}
