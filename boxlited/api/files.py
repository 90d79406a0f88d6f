"""Files into and out of a box: tar streams between the client and the supervisor.

Owns the checks of query and headers, and the promise that a truncated tar never ends cleanly: an
error before the first byte is an ordinary reply, a later one cuts the connection. Unpacks nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from boxlited.api import query
from boxlited.api.bodies import BodyStream
from boxlited.api.call import Call
from boxlited.api.problems import UnsupportedMediaType
from boxlited.api.replies import Reply, no_content
from boxlited.api.streaming import StreamReply, Write
from boxlited.errors import Internal, InvalidArgument

TAR = b"application/x-tar"
TYPES = ("application/x-tar", "application/octet-stream")
SOURCE_IS_DIR = b"x-boxlite-source-is-dir"  # published clients need it to extract a stream
MAX_PATH_BYTES = 4096
MAX_HEAD_BYTES = 64 * 1024  # before the first entry; its name has at most MAX_PATH_BYTES
_BLOCK = 512
_EXTENDED = frozenset((b"x", b"g", b"L", b"K"))
_OCTAL = re.compile(rb"[0-7]+")
_HINTS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


async def put(call: Call) -> Reply:
    path = _path(call)
    overwrite = query.boolean(call.query, "overwrite", default=True)
    # A hint that cannot be read is none: clients of the contract count on that.
    source_is_dir = _HINTS.get(call.query.get("source_is_dir", "").lower())
    _check_type(call)
    body = BodyStream(call, call.services.max_upload_bytes)
    await call.supervisor.put_files(call.ref, path, overwrite, body, source_is_dir=source_is_dir)
    await body.finish()
    return no_content()


async def get(call: Call) -> StreamReply:
    path = _path(call)
    follow = query.boolean(call.query, "follow_symlinks")
    ref = call.ref

    async def produce(write: Write) -> None:
        async with call.supervisor.get_files(ref, path, follow) as chunks:
            first, is_dir = await _beginning(chunks)
            reply.headers = ((SOURCE_IS_DIR, b"true" if is_dir else b"false"),)
            await write(first)
            async for chunk in chunks:
                await write(chunk)

    reply = StreamReply(produce, TAR, is_whole=True)
    return reply


def _path(call: Call) -> str:
    """The path inside the box. Raises InvalidArgument that says what is wrong with it."""
    path = call.query.get("path")
    if not path:
        raise InvalidArgument("path is missing: give the absolute path inside the box, ?path=/…")
    if "\0" in path:
        raise InvalidArgument("path holds a NUL character")
    if not path.startswith("/"):
        raise InvalidArgument(f"path {path[:64]!r} is not absolute: begin it with /")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise InvalidArgument(f"path is longer than {MAX_PATH_BYTES} bytes")
    return path


def _check_type(call: Call) -> None:
    given = call.header(b"content-type")
    if given is not None and given.partition(";")[0].strip().lower() not in TYPES:
        raise UnsupportedMediaType(f"Content-Type {given[:64]!r} is not taken: send a tar as {' or '.join(TYPES)}")
    coding = call.header(b"content-encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {coding[:64]!r} is not taken: send the tar as it is")


async def _beginning(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The stream up to its first entry, and whether that is a directory. Raises Internal for what is no tar."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        kind = first_kind(data)
        if kind is not None:
            return bytes(data), kind == b"5"
        if len(data) > MAX_HEAD_BYTES:
            raise Internal(f"the box sent {len(data)} bytes without an entry: its tar is not taken")
    raise Internal("the box ended its tar before the first entry")


def first_kind(data: bytes | bytearray) -> bytes | None:
    """The type of the first entry behind its extended headers; None while there is too little data.

    A box may have made the tar: a size that is no number, or less than none, is Internal.
    """
    at = 0
    while len(data) >= at + _BLOCK:
        kind = bytes(data[at + 156 : at + 157])
        if kind not in _EXTENDED:
            return kind
        digits = data[at + 124 : at + 136].strip(b" \0") or b"0"
        if not _OCTAL.fullmatch(digits):
            raise Internal("the box sent a tar whose extended header has no size: it is not taken")
        size = int(digits, 8)
        at += _BLOCK + size + -size % _BLOCK
    return None
