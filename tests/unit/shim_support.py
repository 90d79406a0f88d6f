"""A control channel served in this very thread. Holds no tests."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from boxlited.shim import frames, proof
from boxlited.shim.control import Connection, ControlServer
from boxlited.shim.listening import listen
from boxlited.shim.loop import Loop

KEY = bytes(range(32))
PATIENCE_SECONDS = 20.0


def turn(loop: Loop, seconds: float = 0.0) -> None:
    """What is due now, or comes within so many seconds."""
    loop._stopped = False
    loop.after(seconds, loop.stop)
    loop.run()


def turn_until(loop: Loop, holds: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"timed out: {what}"
        turn(loop, 0.002)


class Client:
    """The other end of a connection. Never blocks: the server runs in the same thread."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self.loop = loop
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.connect(str(path))
        self.ended = False
        self._decoder = frames.Decoder()

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.ended:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                pass
            except OSError:
                self.ended = True
            turn(self.loop)

    def receive(self) -> bytes:
        """What is there."""
        turn(self.loop)
        data = b""
        with suppress(BlockingIOError):
            while not self.ended:
                try:
                    chunk = self.sock.recv(1 << 20)
                except ConnectionResetError:
                    chunk = b""
                self.ended = not chunk
                data += chunk
        return data

    def prove(self, key: bytes = KEY) -> None:
        nonce = os.urandom(proof.NONCE_BYTES)
        self.send(proof.hello(nonce))
        theirs = proof.check_answer(KEY, nonce, self.receive())
        self.send(proof.client_proof(key, nonce, theirs))

    def frames(self) -> list[tuple[int, bytes]]:
        self._decoder.feed(self.receive())
        return list(self._decoder.frames())

    def close(self) -> None:
        self.sock.close()
        turn(self.loop)


class Served:
    """`handled` are the frames that reached the handler, unless another one is given."""

    def __init__(self, directory: Path, handle: Callable[[Connection, int, bytes], None] | None = None) -> None:
        self.loop = Loop()
        self.path = directory / "c.sock"
        self.handled: list[tuple[int, bytes]] = []
        self.connections: list[Connection] = []
        listener = listen(str(self.path))
        self.server = ControlServer(listener, KEY, self.loop, handle or self._note)
        self.accepts = 0
        self.loop.watch(listener, select.POLLIN, self._accept)
        self.clients: list[Client] = []

    def _accept(self, _events: int) -> None:
        self.accepts += 1
        self.server.accept()

    def _note(self, connection: Connection, kind: int, payload: bytes) -> None:
        self.handled.append((kind, payload))
        if connection not in self.connections:
            self.connections.append(connection)

    def connect(self, *, proven: bool = True) -> Client:
        client = Client(self.loop, self.path)
        self.clients.append(client)
        if proven:
            client.prove()
        return client

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()
        for connection in list(self.server._connections):
            connection.close()
        self.server._listener.close()


@contextmanager
def served(directory: Path, handle: Callable[[Connection, int, bytes], None] | None = None) -> Iterator[Served]:
    one = Served(directory, handle)
    try:
        yield one
    finally:
        one.close()
