"""A client of the API's WebSocket, and commands of a supervisor in memory that it is attached to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from boxlited.model import ExecSpec
from tests.unit.test_api_support import Api, MemoryAttachment, served

BOX = "/v1/boxes/b"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """An API that has the box `b`."""
    async with served(tmp_path) as api:
        api.supervisor.put("b")
        yield api


class Socket:
    """A WebSocket client over any stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._waiting: list[Event] = []

    async def ask(self, target: str, *headers: tuple[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        """The status of the handshake, and the error where it is one."""
        request = Request(host="x", target=target, extra_headers=list(headers))
        await self.stream.send_all(self.ws.send(request))
        status, body = 0, b""
        while True:
            match await self.event():
                case AcceptConnection():
                    return 101, {}
                case RejectConnection() as event:
                    status = event.status_code
                case RejectData() as event:
                    body += event.data
                    if event.body_finished:
                        return status, json.loads(body)["error"]

    async def event(self) -> Event:
        while not self._waiting:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self.ws.receive_data(data or None)
            self._waiting += self.ws.events()
        return self._waiting.pop(0)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.ws.send(event))

    async def say(self, **frame: Any) -> None:
        await self.send(TextMessage(json.dumps(frame)))

    async def message(self) -> bytes | dict[str, Any] | int:
        """A binary message, the object of a text message, or the code of the Close (which is answered)."""
        data, text = b"", ""
        while True:
            match await self.event():
                case BytesMessage() as event:
                    data += event.data
                    if event.message_finished:
                        return data
                case TextMessage() as event:
                    text += event.data
                    if event.message_finished:
                        return dict(json.loads(text))
                case CloseConnection() as event:
                    if event.code != 1006:
                        await self.send(event.response())
                    return int(event.code)


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Socket]:
    stream = await trio.open_unix_socket(path)
    async with stream:
        yield Socket(stream)


@asynccontextmanager
async def attached(api: Api, query: str = "") -> AsyncIterator[tuple[Socket, MemoryAttachment]]:
    execution = await api.supervisor.exec("b", ExecSpec(command="x"))
    name = execution["execution_id"]
    shim = api.supervisor.attachments.setdefault(name, MemoryAttachment())
    async with connected(api.path) as client:
        assert await client.ask(f"{BOX}/executions/{name}/attach{query}") == (101, {})
        yield client, shim


async def heard(shim: MemoryAttachment, count: int) -> list[tuple[Any, ...]]:
    while len(shim.sent) < count:
        await shim.heard.wait()
    return shim.sent


async def nobody_is_connected(api: Api) -> None:
    """A connection that hangs stays there."""
    for _ in range(500):
        if not api.server._streams:
            return
        await trio.sleep(0.01)
    raise AssertionError(f"{len(api.server._streams)} connections are left")
