"""An in-memory supervisor and a served API, for the tests of the API room. Holds no tests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import h11
import httpx
import msgspec
import trio

from boxlited.api.listeners import Listener, listen_unix
from boxlited.api.server import ApiServer
from boxlited.errors import AlreadyExists, InvalidState, NotFound, Timeout
from boxlited.model import Box, BoxID, BoxSpec, BoxStatus, Event, EventKind, ExecSpec, StopCause
from boxlited.shim.frames import Kind

PATIENCE = 10.0  # seconds that anything in these tests may take


@dataclasses.dataclass(frozen=True)
class Report:
    user_message: str
    debug_info: str
    error_kind: str | None


class MemoryLog:
    """Chunks that are there, and chunks that come while someone follows."""

    def __init__(self, chunks: list[bytes], live: trio.MemoryReceiveChannel[bytes] | None) -> None:
        self.chunks = chunks
        self.live = live
        self.asked: dict[str, Any] = {}

    async def read(
        self, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        self.asked = {"tail": tail, "since": since, "follow": follow}
        for chunk in self.chunks:
            yield chunk
        if follow and self.live is not None:
            async for chunk in self.live:
                yield chunk


class MemoryAttachment:
    """The stream of an execution as two queues: a test feeds `frames` and reads what was `sent`."""

    def __init__(self) -> None:
        self.position = 0
        self.sent: list[tuple[Any, ...]] = []
        self.frames, self._receive = trio.open_memory_channel[tuple[Kind, bytes]](100)
        self.heard = trio.Event()

    async def receive(self) -> tuple[Kind, bytes] | None:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return None

    async def acknowledge(self, count: int) -> None:
        self.position += count

    def _note(self, *what: Any) -> None:
        self.sent.append(what)
        self.heard.set()
        self.heard = trio.Event()

    async def stdin(self, data: bytes) -> None:
        self._note("stdin", data)

    async def end_stdin(self) -> None:
        self._note("eof")

    async def resize(self, cols: int, rows: int) -> None:
        self._note("resize", cols, rows)

    async def signal(self, number: int) -> None:
        self._note("signal", number)


class MemorySupervisor:
    """Boxes in a dict. Behaves as the port says, without processes, disk or clock."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.only_in_memory: set[str] = set()
        self.keys: dict[str, str] = {}
        self.events: list[Event] = []
        self.subscribers: list[trio.MemorySendChannel[Event]] = []
        self.subscribed = trio.Event()
        self.unsubscribed = trio.Event()
        self.is_ready = True
        self.asked: list[tuple[Any, ...]] = []
        self.crashes: dict[tuple[str, bool], Report] = {}
        self.changed = trio.Event()
        self.waiting = trio.Event()
        self.gave_up = trio.Event()
        self.commands: dict[str, dict[str, Any]] = {}
        self.attachments: dict[str, MemoryAttachment] = {}
        self.detached = trio.Event()
        self.log = MemoryLog([b"one\n", b"two\n"], None)

    # ---- what tests do to it

    def emit(self, kind: EventKind = EventKind.STARTED, **data: Any) -> Event:
        event = Event(seq=len(self.events) + 1, at=1_700_000_000.5, kind=kind, data=data)
        self.events.append(event)
        for channel in list(self.subscribers):
            try:
                channel.send_nowait(event)
            except trio.WouldBlock:
                channel.close()
                self.subscribers.remove(channel)
        return event

    def put(self, name: str, status: BoxStatus = BoxStatus.CONFIGURED, **fields: Any) -> Box:
        box = Box(
            box_id=BoxID.mint(), name=name, spec=BoxSpec(name=name, image="host"), status=status,
            created_at=1_700_000_000.25, updated_at=1_700_000_001.0, **fields,
        )  # fmt: skip
        self.boxes[box.box_id] = box
        return box

    def change(self, box: Box, **fields: Any) -> Box:
        new = msgspec.structs.replace(box, **fields)
        self.boxes[box.box_id] = new
        self.changed.set()
        self.changed = trio.Event()
        return new

    # ---- the port

    async def create(self, spec: BoxSpec, *, idempotency_key: str | None = None) -> Box:
        if idempotency_key in self.keys:
            return self.boxes[self.keys[idempotency_key]]
        name = spec.name or "box"
        if any(box.name == name for box in self.boxes.values()):
            raise AlreadyExists(f"a box named {name!r} exists already")
        box = msgspec.structs.replace(self.put(name), spec=spec)
        self.boxes[box.box_id] = box
        if idempotency_key is not None:
            self.keys[idempotency_key] = box.box_id
        return box

    def get(self, ref: str) -> Box:
        for box in self.boxes.values():
            if ref in (box.box_id, box.name):
                return box
        raise NotFound(f"no box is called {ref!r}")

    def list_boxes(
        self, status: BoxStatus | None, page_size: int, page_token: str | None
    ) -> tuple[list[Box], str | None]:
        boxes = sorted(self.boxes.values(), key=lambda box: box.name)
        found = [b for b in boxes if (status is None or b.status is status) and b.name > (page_token or "")]
        more = len(found) > page_size
        return found[:page_size], found[page_size - 1].name if more else None

    async def start(self, ref: str) -> Box:
        return self.change(self.get(ref), status=BoxStatus.RUNNING, pid=4242, started_at=time.time())

    async def stop(self, ref: str, timeout_seconds: float = 30) -> Box:
        self.asked.append(("stop", timeout_seconds))
        return self.change(self.get(ref), status=BoxStatus.STOPPED, pid=None, stop_cause=StopCause.USER)

    async def restart(self, ref: str, timeout_seconds: float = 30) -> Box:
        self.asked.append(("restart", timeout_seconds))
        return await self.start(ref)

    async def kill(self, ref: str, signal: int = 9) -> Box:
        self.asked.append(("kill", signal))
        return self.get(ref)

    async def remove(self, ref: str, force: bool = False) -> None:
        box = self.get(ref)
        if box.status is BoxStatus.RUNNING and not force:
            raise InvalidState(f"box {box.name!r} is running: stop it first or use force")
        del self.boxes[box.box_id]

    async def wait(self, ref: str, timeout_seconds: float | None) -> Box:
        with trio.move_on_after(float("inf") if timeout_seconds is None else timeout_seconds):
            while (box := self.get(ref)).status is BoxStatus.RUNNING:
                self.waiting.set()
                try:
                    await self.changed.wait()
                except trio.Cancelled:
                    self.gave_up.set()
                    raise
            return box
        raise Timeout(f"box {ref!r} still runs after {timeout_seconds} s")

    def unrecorded(self) -> set[str]:
        return self.only_in_memory

    async def reset_failed(self, ref: str) -> Box:
        return self.change(self.get(ref), status=BoxStatus.STOPPED, failure_reason=None)

    def crash(self, ref: str, previous: bool = False) -> Report:
        report = self.crashes.get((self.get(ref).box_id, previous))
        if report is None:
            raise NotFound(f"box {ref!r} has no crash report")
        return report

    def console_log(self, ref: str) -> MemoryLog:
        self.get(ref)
        return self.log

    async def box_metrics(self, ref: str) -> dict[str, Any]:
        return {"cpu_percent": 1.5, "memory_bytes": 4096, "box": self.get(ref).name}

    async def exec(self, ref: str, spec: ExecSpec, *, idempotency_key: str | None = None) -> dict[str, Any]:
        self.get(ref)
        self.asked.append(("exec", spec, idempotency_key))
        number = len(self.commands) + 1
        self.commands[f"exec-{number}"] = {
            "execution_id": f"exec-{number}", "command": spec.command, "status": "running", "attached": False,
            "tty": spec.tty, "exit_code": None, "started_at": 1_700_000_000.5, "duration_ms": None,
            "error_message": None,
        }  # fmt: skip
        return self.commands[f"exec-{number}"]

    async def executions(self, ref: str) -> list[dict[str, Any]]:
        self.get(ref)
        return list(self.commands.values())

    async def execution(self, ref: str, execution_id: str) -> dict[str, Any]:
        self.get(ref)
        if execution_id not in self.commands:
            raise NotFound(f"there is no execution {execution_id!r}")
        return self.commands[execution_id]

    async def kill_execution(self, ref: str, execution_id: str) -> None:
        await self.execution(ref, execution_id)
        del self.commands[execution_id]

    async def signal_execution(self, ref: str, execution_id: str, signal: int) -> None:
        await self.execution(ref, execution_id)
        self.asked.append(("signal", execution_id, signal))

    async def resize_execution(self, ref: str, execution_id: str, cols: int, rows: int) -> None:
        await self.execution(ref, execution_id)
        self.asked.append(("resize", execution_id, cols, rows))

    @asynccontextmanager
    async def attachment(
        self, ref: str, execution_id: str, since: int | None = None
    ) -> AsyncIterator[MemoryAttachment]:
        await self.execution(ref, execution_id)
        if self.commands[execution_id]["attached"]:
            raise AlreadyExists("somebody is attached already")
        self.asked.append(("attach", execution_id, since))
        self.commands[execution_id]["attached"] = True
        try:
            yield self.attachments.setdefault(execution_id, MemoryAttachment())
        finally:
            self.commands[execution_id]["attached"] = False
            self.detached.set()

    async def reconcile(self, dry_run: bool = False) -> list[dict[str, Any]]:
        return [{"box_id": box.box_id, "action": "none"} for box in self.boxes.values()]

    def metrics(self) -> dict[str, Any]:
        return {"boxes_created_total": len(self.boxes), "boxes_running": 0, "since": "now"}

    async def events_since(self, seq: int, limit: int) -> list[Event]:
        return [event for event in self.events if event.seq > seq][:limit]

    @contextmanager
    def subscribe_events(self) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        send, receive = trio.open_memory_channel[Event](4)
        self.subscribers.append(send)
        self.subscribed.set()
        try:
            with send, receive:
                yield receive
        finally:
            if send in self.subscribers:
                self.subscribers.remove(send)
            self.unsubscribed.set()

    @property
    def last_event_seq(self) -> int:
        return len(self.events)

    def capabilities(self) -> dict[str, Any]:
        return {"tty_enabled": False}


@dataclasses.dataclass
class Api:
    """A served API and a client of its first listener."""

    supervisor: MemorySupervisor
    server: ApiServer
    client: httpx.AsyncClient
    path: Path


def unix_client(path: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)  # no certificates are loaded for each
    return httpx.AsyncClient(transport=transport, base_url="http://boxlited", timeout=PATIENCE)


@asynccontextmanager
async def served(
    directory: Path,
    *more: Listener,
    supervisor: MemorySupervisor | None = None,
    grace_seconds: float = 1.0,
    stop_seconds: float = 30.0,
) -> AsyncIterator[Api]:
    """Serves on `directory`/b.sock and on `more`. Stops the server at the end and waits for it."""
    supervisor = supervisor or MemorySupervisor()
    path = directory / "b.sock"
    server = ApiServer(
        supervisor, [listen_unix(path), *more], grace_seconds=grace_seconds, stop_seconds=stop_seconds, home="/the/home"
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with unix_client(path) as client:
                yield Api(supervisor, server, client, path)
            server.stop()


class Wire:
    """A client on bytes: for streams that are left early, and for what httpx would not send."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Wire]:
        stream = await trio.open_unix_socket(path)
        async with stream:
            yield cls(stream)

    async def ask(self, method: str, target: str, *headers: tuple[str, str]) -> h11.Response:
        """Sends a request without a body; returns the head of the reply."""
        request = h11.Request(method=method, target=target, headers=[("host", "x"), *headers])
        await self.stream.send_all(self.http.send(request))
        await self.stream.send_all(self.http.send(h11.EndOfMessage()))
        return await self.head()

    async def head(self) -> h11.Response:
        event = await self._next()
        assert isinstance(event, h11.Response)
        return event

    async def piece(self) -> bytes | None:
        """The next piece of the body; None at its proper end."""
        event = await self._next()
        if isinstance(event, h11.EndOfMessage):
            return None
        assert isinstance(event, h11.Data)
        return bytes(event.data)

    async def rest(self) -> bytes:
        body = b""
        while (data := await self.piece()) is not None:
            body += data
        return body

    async def _next(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some(65536))
        return event


def error_of(response: httpx.Response, status: int, code: str) -> dict[str, str]:
    """Checks the shape of an error reply and returns what is in it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, str] = body["error"]
    assert set(error) == {"message", "type", "code", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    return error
