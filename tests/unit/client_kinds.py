"""The synchronous client, and the asynchronous one under trio and under asyncio: the same promise is kept by each.

A file names the fixtures that it needs: `fake = with_a_box(fake_daemon.serving)`, `ask = client_kinds.ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from boxlited.client import AsyncClient, Client
from tests.unit.fake_daemon import FakeDaemon

WEB = "webaaaaaaaaaaaaa"
KINDS = ("sync", "trio", "asyncio")
DEADLINE_SECONDS = 60
Ask = Callable[..., Any]


def asking(kind: str, socket: Path) -> Ask:
    """`ask("method", ...)` calls a method of a client of this kind."""

    def call_sync(method: str, *args: Any, **more: Any) -> Any:
        with Client(socket, retry_seconds=5) as client:
            return getattr(client, method)(*args, **more)

    async def call_async(method: str, args: Any, more: Any) -> Any:
        with anyio.fail_after(DEADLINE_SECONDS):
            async with AsyncClient(socket, retry_seconds=5) as client:
                return await getattr(client, method)(*args, **more)

    def call(method: str, *args: Any, **more: Any) -> Any:
        return anyio.run(call_async, method, args, more, backend=kind)

    return call_sync if kind == "sync" else call


def with_a_box(serving: Callable[[Path], AbstractContextManager[FakeDaemon]]) -> Any:
    """The fixture `fake`: a daemon, served so, that has the box `web`."""

    @pytest.fixture
    def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
        with serving(tmp_path / "d.sock") as daemon:
            daemon.add(WEB, "web")
            yield daemon

    return fake


@pytest.fixture
def client(fake: FakeDaemon) -> Iterator[Client]:
    with Client(fake.socket, retry_seconds=5) as opened:
        yield opened


@pytest.fixture(params=KINDS)
def ask(fake: FakeDaemon, request: pytest.FixtureRequest) -> Ask:
    return asking(request.param, fake.socket)
