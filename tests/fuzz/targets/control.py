"""The shim's end of the control channel: a stranger gets nothing done, and a client that is proven gets
answers, whatever it says. A shim that ended by it would take its box down.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
from typing import Any

from boxlited.shim import frames, proof
from boxlited.shim.control import Connection, ControlServer
from boxlited.shim.executions import Execution
from boxlited.shim.guest import Command
from boxlited.shim.loop import Loop
from boxlited.shim.requests import Json, Requests
from boxlited.shim.stdin import Stdin

KEY = b"k" * 32
TERMINAL = os.openpty()[0]
SPEC = {
    "engine": "sandbox",
    "env": {},
    "hostname": "box",
    "user": None,
    "working_dir": None,
    "rootfs": {"kind": "host"},
}


class Stepping(Loop):
    """Runs until nothing moves."""

    def settle(self) -> None:
        for _ in range(10_000):
            ready = [(fd, events) for fd, events in self._poll.poll(0) if events != select.POLLHUP]
            if not ready:
                return
            for fd, events in ready:
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
        raise AssertionError("it spins")


class Recorded(Execution):
    """Signals nobody: what the kernel and its C interface would refuse is refused here."""

    def signal(self, number: int) -> bool:
        if not -(2**31) <= number < 2**31:
            raise OverflowError("signed integer is greater than maximum")
        if not 0 <= number <= 64:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self.exit_code is None

    def kill(self) -> None:
        pass


class Answers(Requests):
    """All operations but those that fork."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(SPEC, None, loop)  # type: ignore[arg-type]
        self._operations["exec"] = self._only_read
        del self._operations["put_files"], self._operations["get_files"]

    def _only_read(self, _connection: Connection, request: Json) -> Json:
        command = self._command(request)
        assert command.argv
        assert command.timeout_seconds is None or command.timeout_seconds > 0
        return {"ok": True}

    def add(self, execution_id: str, *, tty: bool, ended: bool, sink: int) -> None:
        command = Command(["x"], {}, "/", tty, 80, 24, None)
        execution = Recorded(execution_id, command, self._loop)
        execution.ring.append(1, b"out")
        execution.ring.append(2, b"err")
        execution.exit_code = 0 if ended else None
        execution._terminal = TERMINAL if tty else -1
        execution.stdin = Stdin(self._loop, os.dup(sink))
        self._executions[execution_id] = execution

    def close(self) -> None:
        for execution in self._executions.values():
            if execution.stdin is not None:
                execution.stdin.close()


def check(data: bytes) -> None:
    """The first byte says who the client is: a stranger, or one with the key that sends frames, or requests."""
    mode = (data[0] if data else 0) % 3
    loop = Stepping()
    answers = Answers(loop)
    sink = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX)
    with listener, socket.socket(socket.AF_UNIX) as client:
        try:
            for execution_id, tty, ended in (("e", False, False), ("t", True, False), ("d", False, True)):
                answers.add(execution_id, tty=tty, ended=ended, sink=sink)
            _talk(listener, client, loop, answers, mode, data[1:])
        finally:
            answers.close()
            os.close(sink)


def _talk(
    listener: socket.socket, client: socket.socket, loop: Stepping, answers: Answers, mode: int, data: bytes
) -> None:
    listener.bind("")  # an abstract name of the kernel's choice
    listener.listen(1)
    client.connect(listener.getsockname())
    client.setblocking(False)
    heard: list[tuple[int, int]] = []

    def handle(connection: Connection, kind: int, payload: bytes) -> None:
        heard.append((kind, len(payload)))
        answers.handle(connection, kind, payload)

    server = ControlServer(os.dup(listener.fileno()), KEY, loop, handle)
    server.accept()
    connection = next(iter(server._connections))
    try:
        if mode:
            _prove(client, loop)
        for chunk in _chunks(data) if mode < 2 else _requests(data):
            _send(client, loop, chunk)
        client.shutdown(socket.SHUT_WR)
        loop.settle()
        _check_replies(_received(client), proven=mode > 0)
    finally:
        connection.close()
        server._listener.close()
    assert mode or not heard, "a stranger was obeyed"


def _prove(client: socket.socket, loop: Stepping) -> None:
    client.send(proof.hello(b"n" * proof.NONCE_BYTES))
    loop.settle()
    theirs = proof.check_answer(KEY, b"n" * proof.NONCE_BYTES, client.recv(proof.ANSWER_BYTES))
    client.send(proof.client_proof(KEY, b"n" * proof.NONCE_BYTES, theirs))


def _chunks(data: bytes) -> list[bytes]:
    size = 1 + (data[0] if data else 0)
    return [data[start : start + size] for start in range(1, len(data), size)]


def _requests(data: bytes) -> list[bytes]:
    """A line is a request, or with a digit before it a frame of that kind."""
    found = []
    for line in data.split(b"\n"):
        kind = int(line[:1]) + 5 if line[:1].isdigit() else frames.Kind.REQUEST
        found.append(frames.frame(kind, line[1:] if line[:1].isdigit() else line))
    return found


def _send(client: socket.socket, loop: Stepping, chunk: bytes) -> None:
    try:
        client.send(chunk)
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        return
    loop.settle()


def _received(client: socket.socket) -> bytes:
    data = b""
    try:
        while chunk := client.recv(1 << 20):
            data += chunk
    except (BlockingIOError, ConnectionResetError):
        pass
    return data


def _check_replies(data: bytes, *, proven: bool) -> None:
    if not proven:
        assert len(data) in (0, proof.ANSWER_BYTES)
        return
    decoder = frames.Decoder()
    decoder.feed(data)
    for kind, payload in decoder.frames():
        if kind == frames.Kind.REPLY:
            _check_reply(json.loads(payload))


def _check_reply(reply: Any) -> None:
    assert isinstance(reply["ok"], bool)
    assert reply["ok"] or (isinstance(reply["message"], str) and isinstance(reply["kind"], str))
