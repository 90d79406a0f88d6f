"""The shim's end of the control channel: who may speak, what is asked, and streams of output and input.

A client is a stranger until it has proven that it knows the key of this run (proof.py); nothing that
it says before is acted on. One request at a time on a connection. Standard library only.
"""

import os
import select
import socket
from collections import deque
from collections.abc import Callable

from boxlited.shim import frames, proof
from boxlited.shim.loop import Loop, Timer

MAX_CONNECTIONS = 512
MAX_REQUEST_BYTES = 4 << 20
PROOF_SECONDS = 10.0
READ_BYTES = 256 * 1024
ACCEPT_PAUSE_SECONDS = 0.1

Handler = Callable[["Connection", int, bytes], None]


class ControlServer:
    """Accepts on a listening socket; `handle(connection, kind, payload)` gets every frame of a proven client."""

    def __init__(self, listener: int, key: bytes, loop: Loop, handle: Handler) -> None:
        self._key = key
        self._loop = loop
        self._handle = handle
        self._connections: set[Connection] = set()
        self._listener = socket.socket(fileno=listener)

    def accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is left: the client waits, and would wake the loop at once for ever
            self._loop.change(self._listener.fileno(), 0)
            self._loop.after(ACCEPT_PAUSE_SECONDS, self._accept_again)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        self._connections.add(Connection(sock, self._key, self._loop, self._handle, self._connections.discard))

    def _accept_again(self) -> None:
        self._loop.change(self._listener.fileno(), select.POLLIN)


class Connection:
    """One client. `closed` is called when it is gone; `pull` when it could take more output."""

    def __init__(
        self,
        sock: socket.socket,
        key: bytes,
        loop: Loop,
        handle: Handler,
        forget: Callable[["Connection"], None],
    ) -> None:
        sock.setblocking(False)
        self.closed: Callable[[], None] | None = None
        self.pull: Callable[[], None] | None = None
        self._sock = sock
        self._fd = sock.fileno()
        self._key = key
        self._loop = loop
        self._handle = handle
        self._forget = forget
        self._decoder = frames.Decoder(MAX_REQUEST_BYTES)
        self._greeting = b""
        self._nonces: tuple[bytes, bytes] | None = None
        self._proven = False
        self._out: deque[memoryview] = deque()
        self._reading = True
        self._events = select.POLLIN
        self._deadline: Timer = loop.after(PROOF_SECONDS, self.close)
        loop.watch(self._fd, self._events, self._on_events)

    # -- receiving

    def _on_events(self, events: int) -> None:
        if self._fd < 0:
            return
        if events & select.POLLOUT:
            self._flush()
        if self._fd >= 0 and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._take(data)
        except (frames.BadFrame, proof.Unproven):
            self.close()

    def _take(self, data: bytes) -> None:
        if not self._proven:
            data = self._greet(data)
            if not self._proven:
                return
        self._decoder.feed(data)
        self._dispatch()

    def _greet(self, data: bytes) -> bytes:
        """The two steps of the proof; returns what came after them. Raises Unproven."""
        self._greeting += data
        if self._nonces is None:
            if len(self._greeting) < proof.HELLO_BYTES:
                return b""
            theirs = proof.read_hello(self._greeting[: proof.HELLO_BYTES])
            self._greeting = self._greeting[proof.HELLO_BYTES :]
            ours = os.urandom(proof.NONCE_BYTES)
            self._nonces = (theirs, ours)
            self.send(proof.answer(self._key, theirs, ours))
        if len(self._greeting) < proof.PROOF_BYTES:
            return b""
        proof.check_client(self._key, *self._nonces, self._greeting[: proof.PROOF_BYTES])
        rest, self._greeting = self._greeting[proof.PROOF_BYTES :], b""
        self._proven = True
        self._deadline.cancel()
        return rest

    def _dispatch(self) -> None:
        while self._reading and self._fd >= 0:
            found = self._decoder.next()
            if found is None:
                return
            self._handle(self, *found)

    def pause(self) -> None:
        """Take nothing from the client until `unpause`: what it sends has nowhere to go."""
        self._reading = False
        self._arrange()

    def unpause(self) -> None:
        if not self._reading and self._fd >= 0:
            self._reading = True
            self._arrange()
            try:
                self._dispatch()
            except frames.BadFrame:
                self.close()

    # -- sending

    def send(self, data: bytes) -> None:
        if self._fd >= 0:
            self._out.append(memoryview(data))
            self._flush(pull=False)

    def send_frame(self, kind: int, payload: bytes) -> None:
        """The payload is not copied."""
        if self._fd >= 0:
            self._out.append(memoryview(frames.head(kind, len(payload))))
            self._out.append(memoryview(payload))
            self._flush(pull=False)

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent has left: the moment to send more."""
        return self._fd >= 0 and not self._out

    def _flush(self, pull: bool = True) -> None:
        try:
            while self._out:
                sent = self._sock.sendmsg([*self._out][:16])
                self._consume(sent)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._arrange()
        if pull and not self._out and self.pull is not None:
            self.pull()

    def _consume(self, sent: int) -> None:
        while sent > 0:
            first = self._out[0]
            if sent < len(first):
                self._out[0] = first[sent:]
                return
            sent -= len(first)
            self._out.popleft()
        while self._out and not self._out[0]:
            self._out.popleft()

    def _arrange(self) -> None:
        events = (select.POLLIN if self._reading else 0) | (select.POLLOUT if self._out else 0)
        if self._fd >= 0 and events != self._events:
            self._events = events
            self._loop.change(self._fd, events)

    # -- end

    def close(self) -> None:
        """At once. What was not sent is lost."""
        if self._fd < 0:
            return
        self._leave()
        self._sock.close()

    def hand_over(self) -> tuple[socket.socket, bytes]:
        """The socket and what was read from it already, for another process that goes on with it."""
        self._leave()
        return self._sock, self._decoder.take()

    def _leave(self) -> None:
        self._deadline.cancel()
        self._loop.forget(self._fd)
        self._fd = -1
        self._out.clear()
        self._forget(self)
        if self.closed is not None:
            self.closed()
