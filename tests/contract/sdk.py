"""The published SDK, pointed at a daemon of the tests. Holds no tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import boxlite
import pytest

from tests.contract.listening import TOKEN, Listening

PATIENCE_SECONDS = 30.0
FOREVER = ["/bin/sleep", "987654"]

T = TypeVar("T")


def runtime(served: Listening, token: str | None = TOKEN) -> Any:
    credential = None if token is None else boxlite.ApiKeyCredential(token)
    return boxlite.Boxlite.rest(boxlite.BoxliteRestOptions(url=served.url, credential=credential))


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine of the SDK, which wants asyncio; a hang is a failure."""

    async def bounded() -> T:
        return await asyncio.wait_for(work(), PATIENCE_SECONDS)

    return asyncio.run(bounded())


async def text_of(stream: AsyncIterator[str | bytes]) -> str:
    """All of an output stream, as text."""
    parts = [part async for part in stream]
    return "".join(part.decode() if isinstance(part, bytes) else part for part in parts)


def needs(served: Listening, method: str, path: str) -> None:
    """Skip what this daemon does not serve; its own document says so."""
    if not served.serves(method, path):
        pytest.skip(f"{method} {path} is not in this version")
