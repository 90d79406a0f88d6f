"""Server-Sent Events: bytes in, messages out. No I/O (sans-IO, as h11).

Follows the parsing rules of the HTML standard, section 9.2.6, except `retry`, which is ignored.
A line is bounded: a peer that never ends one is an error and not a growing buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MAX_LINE_BYTES = 4 * 1024 * 1024


class Message(NamedTuple):
    event: str
    data: str
    id: str | None


class Parser:
    """Feed it chunks as they come; it yields each message once it is complete."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Messages completed by `chunk`. Raises ValueError on a line without end."""
        self._buffer += chunk
        while (line := self._take_line()) is not None:
            message = self._line(line.decode("utf-8", "replace"))
            if message is not None:
                yield message
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ValueError(f"a line of the event stream is longer than {MAX_LINE_BYTES} bytes")

    def _take_line(self) -> bytes | None:
        ends = [i for i in (self._buffer.find(b"\n"), self._buffer.find(b"\r")) if i >= 0]
        if not ends:
            return None
        end = min(ends)
        after = end + 1
        if self._buffer[end:after] == b"\r":
            if after == len(self._buffer):
                return None  # the LF of a CRLF may still come
            if self._buffer[after : after + 1] == b"\n":
                after += 1
        line, self._buffer = self._buffer[:end], self._buffer[after:]
        return line

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        if not data:
            return None
        return Message(event or "message", "\n".join(data), self._id)
