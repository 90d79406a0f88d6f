"""The daemon's end of a control channel: a shim that has proven itself may have been taken over by its box. Whatever it
says, each route of the API answers, or refuses with an error of the contract; nothing hangs, and nothing is gathered
beyond a bound. One that has not proven itself is told nothing but a random number.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import trio

from boxlited.api import files, routes_exec
from boxlited.api.call import Call
from boxlited.api.problems import error_reply
from boxlited.api.replies import Message, Reply
from boxlited.api.services import Services
from boxlited.api.websockets import serve_websocket
from boxlited.errors import BoxlitedError
from boxlited.model import Box, BoxID, BoxSpec, BoxStatus
from boxlited.shim import frames, proof
from boxlited.supervisor import executions
from boxlited.supervisor.executing import Executing
from boxlited.supervisor.kernel import Kernel
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.runtime import BoxRuntime
from boxlited.supervisor.transfers import Transfers
from tests.fuzz.scratch import scratch

BOX = Box(box_id=BoxID("a" * 16), name="box", spec=BoxSpec(), status=BoxStatus.RUNNING, run_id="run")
HOME = HomeLayout(scratch())
HANG_SECONDS = 10.0
HELD_BYTES = 4 << 20  # what may be on its way between a shim and a client
FLOOD = b"\0" * frames.MAX_PAYLOAD
PROVEN, BABBLES, OTHER_KEY, REFLECTS = range(4)

executions.ENDING_SECONDS = 0.0
HOME.box(BOX.box_id).control_socket.parent.mkdir(parents=True)
LISTENER = socket.socket(socket.AF_UNIX)
LISTENER.bind(str(HOME.box(BOX.box_id).control_socket))
LISTENER.listen()


class Handle:
    pid = os.getpid()


class Rows:
    """A ledger with one box, which runs."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._runtime = BoxRuntime(BOX.box_id, lambda _handle: None)
        self._runtime.handle = Handle()  # type: ignore[assignment]

    def runtime(self, _box_id: BoxID) -> BoxRuntime:
        return self._runtime

    def row(self, _box_id: BoxID) -> Box:
        return BOX


class Supervisor(Executing):
    def __init__(self) -> None:
        async def look(_box_id: BoxID) -> None:
            pass

        rows: Any = Rows()
        self._executions = executions.Executions(Kernel(), HOME, rows, b"k" * 32, self._same, self._same, look)
        self._transfers = Transfers(self._executions, {"max_bytes": 1 << 20, "max_entries": 100})
        self.get = lambda _ref: BOX
        self._carry = lambda command: command()
        self.key = self._executions.run_key(BOX.box_id, "run")

    async def _same(self, _ref: str) -> Box:
        return BOX


class Shim:
    """Says what the input says, and listens to nothing but the proof."""

    def __init__(self, mode: int, script: bytes, key: bytes) -> None:
        self.heard = 0
        self.passed_on: tuple[int, ...] = ()  # kinds of frames that go to the client as they are
        self.sent = self.delivered = 0
        self._mode, self._script = mode, script
        self._key = b"x" * 32 if mode == OTHER_KEY else key

    async def run(self, listener: trio.socket.SocketType) -> None:
        sock, _ = await listener.accept()
        with sock:
            await self._talk(sock)

    async def _talk(self, sock: trio.socket.SocketType) -> None:
        hello = b""
        while len(hello) < proof.HELLO_BYTES:
            hello += await sock.recv(proof.HELLO_BYTES - len(hello))
        nonce = proof.read_hello(hello)
        answer = proof.answer(self._key, nonce, b"n" * 32)
        if self._mode == BABBLES:
            answer = self._script
        elif self._mode == REFLECTS:
            answer = bytes([proof.VERSION]) + nonce + nonce
        await self._say(sock, answer)
        if self._mode == PROVEN:
            self.heard = -proof.PROOF_BYTES
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, sock)
            for piece in _pieces(self._script):
                count = await self._say(sock, piece)
                self.sent += count if piece[:1] in [b"%c" % kind for kind in self.passed_on] else 0
                assert self.sent - self.delivered < HELD_BYTES, "what no client took is gathered"
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    async def _say(self, sock: trio.socket.SocketType, data: bytes) -> int:
        """All of it, or nothing that somebody keeps; returns how much."""
        view = memoryview(data)
        with suppress(OSError):
            while view:
                view = view[await sock.send(view) :]
            return len(data)
        return 0

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        with suppress(OSError):
            while data := await sock.recv(65536):
                self.heard += len(data)


def _pieces(script: bytes) -> list[bytes]:
    """A line is a reply; with a letter first it is a frame of that kind, with `*` many, and with `!` just bytes."""
    found = []
    for line in script.split(b"\n"):
        if line[:1] == b"*":
            found += [frames.head((line + b"L")[1] - ord("A") + 1 & 0xFF, len(FLOOD)) + FLOOD] * 8
        elif line[:1] == b"!":
            found.append(line[1:])
        elif b"A" <= line[:1] <= b"O":
            found.append(frames.frame(line[0] - ord("A") + 1, line[1:]))
        else:
            found.append(frames.frame(frames.Kind.REPLY, line))
    return found


class Client:
    """One request, and what it is answered."""

    def __init__(self, supervisor: Supervisor, shim: Shim, body: bytes = b"") -> None:
        self._shim = shim
        self._closed = trio.Event()
        self._said = [{"type": "websocket.receive", "bytes": b"i" * 300_000}]
        self._said += [{"type": "websocket.receive", "text": '{"type": "resize", "cols": 8, "rows": 8}'}]
        state = {"is_gone": lambda: False, "abort": lambda: None}
        scope = {"method": "POST", "state": state, "headers": [], "query_string": b"path=/a", "raw_path": b"/"}
        scope["path"] = f"/v1/boxes/{BOX.box_id}/executions/e/attach"
        self.call = Call(scope, self._receive, Services(supervisor))  # type: ignore[arg-type]
        self.call.body = body
        self.call.params = {"ref": str(BOX.box_id), "execution_id": "e"}

    async def _receive(self) -> Message:
        if self._said:
            return self._said.pop(0)
        await self._closed.wait()
        return {"type": "websocket.disconnect"}

    async def attach(self) -> None:
        self._shim.passed_on = (frames.Kind.STDOUT, frames.Kind.STDERR)
        await serve_websocket(self.call, self._send)

    async def _send(self, message: Message) -> None:
        self._shim.delivered += len(message.get("bytes") or b"")
        if message["type"] == "websocket.close":
            self._closed.set()
        if message.get("text") is not None:
            frame = json.loads(message["text"].encode(), parse_constant=_refuse_constant)
            assert frame["type"] == "error" or isinstance(frame["exit_code"], int), frame

    async def get_files(self) -> None:
        self._shim.passed_on = (frames.Kind.DATA,)
        await (await files.get(self.call)).produce(self._write)

    async def _write(self, data: bytes) -> None:
        self._shim.delivered += len(data)

    async def put_files(self) -> None:
        self._said = [{"type": "http.request", "body": b"t" * 300_000, "more_body": False}]
        self.call.body_is_open = True
        _check(await files.put(self.call))


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _plain(handler: Callable[[Call], Awaitable[Reply]], body: bytes = b"") -> Callable[[Supervisor, Shim], Any]:
    async def ask(supervisor: Supervisor, shim: Shim) -> None:
        _check(await handler(Client(supervisor, shim, body).call))

    return ask


def _check(reply: Reply) -> None:
    assert reply.status < 300
    for _name, value in reply.headers:
        assert value.isascii()
        assert value.decode().isprintable()
    if reply.body:
        msgspec.json.decode(reply.body)


ROUTES: tuple[Callable[[Supervisor, Shim], Any], ...] = (
    _plain(routes_exec.exec_command, b'{"command": "true"}'),
    _plain(routes_exec.executions),
    _plain(routes_exec.execution),
    _plain(routes_exec.kill_execution),
    lambda supervisor, shim: Client(supervisor, shim).attach(),
    lambda supervisor, shim: Client(supervisor, shim).get_files(),
    lambda supervisor, shim: Client(supervisor, shim).put_files(),
)


def check(data: bytes) -> None:
    """The first byte says what the shim is, the second what is asked for; beyond them is what it says."""
    mode, route = (data + b"\0\0")[0] % 4, ROUTES[(data + b"\0\0")[1] % len(ROUTES)]
    trio.run(_meet, mode, route, data[2:])


async def _meet(mode: int, route: Callable[[Supervisor, Shim], Any], script: bytes) -> None:
    supervisor = Supervisor()
    shim = Shim(mode, script, supervisor.key)
    refusal: Exception | None = None
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shim.run, trio.socket.from_stdlib_socket(LISTENER))
            try:
                await route(supervisor, shim)
            except* BoxlitedError as group:
                refusal = group
    while isinstance(refusal, BaseExceptionGroup):
        refusal = refusal.exceptions[0]
    if isinstance(refusal, BoxlitedError):
        json.loads(error_reply(refusal, "request").body)["error"]["message"].encode()
    assert mode == PROVEN or (refusal is not None and shim.heard == 0), "a stranger was believed"
