"""What can be asked of the supervisor about commands and files in boxes: one thin method for each route."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from boxlited.model import Box, ExecSpec
from boxlited.supervisor import words
from boxlited.supervisor.executions import Attachment, Executions
from boxlited.supervisor.transfers import Transfers

T = TypeVar("T")


class Executing:
    """A part of the supervisor; the other parts set what is named here."""

    _executions: Executions
    _transfers: Transfers
    get: Callable[[str], Box]
    _carry: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

    async def exec(self, ref: str, spec: ExecSpec, *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Start a command; goes through although its caller leaves. The same key gives the same execution."""
        box = self.get(ref)
        execution: dict[str, Any] = await self._carry(lambda: self._executions.exec(box, spec, idempotency_key))
        return execution

    async def executions(self, ref: str) -> list[dict[str, Any]]:
        """All of this run that are remembered, the oldest first."""
        reply = await self._executions.ask(self.get(ref), op="list")
        return words.executions(reply)

    async def execution(self, ref: str, execution_id: str) -> dict[str, Any]:
        reply = await self._executions.ask(self.get(ref), op="inspect", execution_id=execution_id)
        return words.execution(reply)

    async def kill_execution(self, ref: str, execution_id: str) -> None:
        """SIGKILL to all that it started in its group, and forget it."""
        await self._executions.ask(self.get(ref), op="delete", execution_id=execution_id)

    async def signal_execution(self, ref: str, execution_id: str, signal: int) -> None:
        await self._executions.ask(self.get(ref), op="signal", execution_id=execution_id, signal=signal)

    async def resize_execution(self, ref: str, execution_id: str, cols: int, rows: int) -> None:
        await self._executions.ask(self.get(ref), op="resize", execution_id=execution_id, cols=cols, rows=rows)

    def attachment(
        self, ref: str, execution_id: str, since: int | None = None
    ) -> AbstractAsyncContextManager[Attachment]:
        """Attached while the block lasts. `since`: payload bytes that the client has already."""
        return self._executions.attachment(self.get(ref), execution_id, since)

    async def put_files(
        self,
        ref: str,
        path: str,
        overwrite: bool,
        chunks: AsyncIterator[bytes],
        *,
        source_is_dir: bool | None = None,
    ) -> None:
        """Unpack an archive in a running box: all of it, or nothing."""
        await self._transfers.put(self.get(ref), path, overwrite, chunks, source_is_dir)

    def get_files(
        self, ref: str, path: str, follow_symlinks: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The archive of a path in a running box; its iterator ends behind a whole one only."""
        return self._transfers.get(self.get(ref), path, follow_symlinks)
