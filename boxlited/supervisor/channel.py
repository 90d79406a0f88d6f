"""The daemon's end of a shim's control channel: connect, prove both sides, frames.

Owns nothing but the connection. What a shim says is read with a bound and never names a box: whose
channel it is was known before it was opened.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from boxlited.errors import (
    BY_CODE,
    BoxlitedError,
    EngineUnavailable,
    InvalidState,
    ResourceExhausted,
    Timeout,
    Unsupported,
)
from boxlited.shim import frames, proof
from boxlited.shim.frames import Kind
from boxlited.supervisor import words
from boxlited.supervisor.layout import BoxLayout
from boxlited.supervisor.start import error_of_kind

PROOF_SECONDS = 15.0
REPLY_SECONDS = 30.0
RECEIVE_BYTES = 512 * 1024
CONNECT_RETRY_SECONDS = 0.002
_PEERCRED = struct.Struct("=iII")
_NOBODY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class ShimUnproven(InvalidState):
    """Whoever answers on the box's channel is not its shim, or cannot show that it is."""


class Channel:
    """A connection whose both ends have proven themselves. Made by `open_channel`."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._decoder = frames.Decoder()

    async def request(self, **request: Any) -> dict[str, Any]:
        """One question and its answer. Raises the API's error for a refusal, Timeout, EngineUnavailable."""
        await self.send(Kind.REQUEST, json.dumps(request).encode())
        with trio.move_on_after(REPLY_SECONDS):
            return await self.reply()
        raise Timeout(f"the shim did not answer within {REPLY_SECONDS:g} s")

    async def reply(self) -> dict[str, Any]:
        """The next frame, which must be an answer. Raises as `request`, without a deadline."""
        found = await self.receive()
        if found is None:
            raise EngineUnavailable("the shim closed its channel: the box may have just ended")
        kind, payload = found
        reply = words.reply(payload if kind == Kind.REPLY else b"")
        if reply.get("ok") is not True:
            raise _refusal(reply)
        return reply

    async def send(self, kind: int, payload: bytes = b"") -> None:
        """Raises EngineUnavailable when the shim is gone. Not to be used by two tasks at once."""
        try:
            await self._send_all(frames.head(kind, len(payload)) + payload)
        except OSError as error:
            raise EngineUnavailable("the shim closed its channel: the box may have just ended") from error

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame as (kind, payload); None at the end. Raises EngineUnavailable for garbage.

        Others get their turn between any two frames: a shim that floods must not keep them waiting.
        """
        await trio.lowlevel.checkpoint()
        try:
            while (found := self._decoder.next()) is None:
                data = await self._sock.recv(RECEIVE_BYTES)
                if not data:
                    return None
                self._decoder.feed(data)
        except frames.BadFrame as error:
            raise EngineUnavailable(f"the shim sent what is no frame: {error}") from error
        except OSError:
            return None
        return found

    async def _send_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self._sock.send(view) :]

    async def prove(self, key: bytes) -> None:
        """Both ends show that they know the key. Raises ShimUnproven, EngineUnavailable."""
        nonce = os.urandom(proof.NONCE_BYTES)
        try:
            await self._send_all(proof.hello(nonce))
            theirs = proof.check_answer(key, nonce, await self._exactly(proof.ANSWER_BYTES))
            await self._send_all(proof.client_proof(key, nonce, theirs))
        except proof.Unproven as error:
            raise ShimUnproven(f"{error}: nothing is done with it") from error
        except OSError as error:
            raise EngineUnavailable("the shim closed its channel: the box may have just ended") from error

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = await self._sock.recv(count - len(data))
            if not chunk:
                raise ConnectionResetError(errno.ECONNRESET, "closed")
            data += chunk
        return data


@asynccontextmanager
async def open_channel(layout: BoxLayout, pid: int, key: bytes) -> AsyncIterator[Channel]:
    """Connect to the shim `pid` of a box and prove both sides.

    Raises ShimUnproven, Unsupported (it has no channel), Timeout, EngineUnavailable, ResourceExhausted.
    """
    with _socket() as sock:
        with trio.move_on_after(PROOF_SECONDS) as scope:
            await _connect(sock, layout)
            if _peer_pid(sock) != pid:
                raise ShimUnproven(
                    "another process than the box's shim answers on its channel: nothing is done with it"
                )
            channel = Channel(sock)
            await channel.prove(key)
        if scope.cancelled_caught:
            raise Timeout(f"the shim did not prove itself within {PROOF_SECONDS:g} s: it may hang")
        yield channel


def _socket() -> trio.socket.SocketType:
    try:
        return trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise _no_channel(error) from error


async def _connect(sock: trio.socket.SocketType, layout: BoxLayout) -> None:
    """By the directory's descriptor: a home may have any length, a socket's path may not."""
    path = layout.control_socket
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            await _connect_patiently(sock, f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    except OSError as error:
        raise _no_channel(error) from error


async def _connect_patiently(sock: trio.socket.SocketType, address: str) -> None:
    """A local connect is never under way: EAGAIN says that the shim's queue is full, and nothing came about."""
    with socket.socket(fileno=os.dup(sock.fileno())) as plain:
        plain.setblocking(False)
        while True:
            try:
                plain.connect(address)
                return
            except BlockingIOError:
                await trio.sleep(CONNECT_RETRY_SECONDS)


def _no_channel(error: OSError) -> BoxlitedError:
    if error.errno in _NOBODY:
        return Unsupported("the box's shim has no control channel (an older one, or a foreign one): restart the box")
    if error.errno in _EXHAUSTED:
        return ResourceExhausted(f"the shim could not be reached: {error.strerror}")
    return EngineUnavailable(f"the shim could not be reached: {error.strerror}")


def _refusal(reply: dict[str, Any]) -> BoxlitedError:
    code, message = reply.get("kind"), reply.get("message")
    text = message[:2000] if isinstance(message, str) else "no reason given"
    return BY_CODE[code](text) if isinstance(code, str) and code in BY_CODE else error_of_kind(code, text)


def _peer_pid(sock: trio.socket.SocketType) -> int:
    """Who listened: the kernel's word, taken when it began to."""
    return int(_PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))[0])
