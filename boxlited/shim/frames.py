"""The frames between daemon and shim: one byte of kind, four of length (big-endian), the payload.

Pure: bytes in, frames out; no socket. Whoever speaks first says MAGIC and VERSION, see proof.py.
A frame that is too long or of no known kind ends the connection: the other end is not one of ours.
Standard library only.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

MAX_PAYLOAD = 1 << 20
HEADER = struct.Struct(">BI")
OFFSET = struct.Struct(">Q")  # the payload of ACK, a count from the beginning


class Kind(IntEnum):
    """What a frame is. STDOUT and STDERR are the numbers of the public stream protocol too."""

    STDOUT = 1
    STDERR = 2
    REQUEST = 3  # JSON, to the shim
    REPLY = 4  # JSON, from the shim
    EXIT = 5  # JSON, from the shim: the execution ended and all its output was sent
    NOTICE = 6  # text, from the shim: nothing fatal
    STDIN = 7
    STDIN_EOF = 8
    RESIZE = 9  # JSON
    SIGNAL = 10  # JSON
    ACK = 11  # to the shim: payload bytes of both channels that were delivered; from it: of STDIN that were taken
    DATA = 12  # a piece of an archive
    END = 13  # the end of an archive


class BadFrame(Exception):
    """What arrived is no frame."""


def head(kind: int, length: int) -> bytes:
    return HEADER.pack(kind, length)


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One whole frame. For small ones: a large payload is better sent behind its `head`, uncopied."""
    return HEADER.pack(kind, len(payload)) + payload


class Decoder:
    """Feed it what arrives; iterate over what is complete."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Raises BadFrame. What the caller does not take stays for the next time."""
        while (found := self.next()) is not None:
            yield found

    def next(self) -> tuple[int, bytes] | None:
        """The next complete frame as (kind, payload). Raises BadFrame."""
        buffer = self._buffer
        if len(buffer) < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(buffer)
        if length > self._limit or not Kind.STDOUT <= kind <= Kind.END:
            raise BadFrame(f"kind {kind}, {length} bytes")
        end = HEADER.size + length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[HEADER.size : end])
        del buffer[:end]
        return kind, payload

    def take(self) -> bytes:
        """Everything that was fed and not decoded, for whoever goes on reading."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
