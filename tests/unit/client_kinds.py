"""The synchronous client, and the asynchronous one under trio and under asyncio: the same promise is kept by each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from boxlited.client import AsyncClient, Client

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
