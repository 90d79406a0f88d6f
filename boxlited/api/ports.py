"""What the API needs of the supervisor, as types. No code.

The supervisor fits these protocols without importing them. Every method raises a class of
`boxlited.errors`; anything else that comes out of it is a bug and is answered with 500.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

import trio

from boxlited.model import Box, BoxSpec, BoxStatus, Event, ExecSpec
from boxlited.shim.frames import Kind


class CrashReportView(Protocol):
    """The three texts of a crash report, already free of control characters."""

    @property
    def user_message(self) -> str: ...
    @property
    def debug_info(self) -> str: ...
    @property
    def error_kind(self) -> str | None: ...


class LogReader(Protocol):
    """The console log of one box. With `follow` the iterator ends when the box stops."""

    def read(
        self, *, tail: int | None = None, since: float | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]: ...


class AttachmentView(Protocol):
    """The stream of one execution; its position counts payload bytes of both channels."""

    position: int

    async def receive(self) -> tuple[Kind, bytes] | None:
        """STDOUT, STDERR, NOTICE, or EXIT as the last; None when the shim is gone."""
        ...

    async def acknowledge(self, count: int) -> None: ...
    async def stdin(self, data: bytes) -> None: ...
    async def end_stdin(self) -> None: ...
    async def resize(self, cols: int, rows: int) -> None: ...
    async def signal(self, number: int) -> None: ...


class ExecutionsPort(Protocol):
    """Commands beside a box's workload. An execution is a dict, as the shim shows it."""

    async def exec(self, ref: str, spec: ExecSpec, *, idempotency_key: str | None = None) -> dict[str, Any]: ...
    async def executions(self, ref: str) -> list[dict[str, Any]]: ...
    async def execution(self, ref: str, execution_id: str) -> dict[str, Any]: ...
    async def kill_execution(self, ref: str, execution_id: str) -> None: ...
    async def signal_execution(self, ref: str, execution_id: str, signal: int) -> None: ...
    async def resize_execution(self, ref: str, execution_id: str, cols: int, rows: int) -> None: ...
    def attachment(
        self, ref: str, execution_id: str, since: int | None = None
    ) -> AbstractAsyncContextManager[AttachmentView]:
        """Raises AlreadyExists when somebody is attached."""
        ...


class BoxesPort(Protocol):
    """Operations on one box. `ref` is an id or a name; an unknown one is NotFound."""

    async def create(self, spec: BoxSpec, *, idempotency_key: str | None = None) -> Box: ...
    def get(self, ref: str) -> Box: ...
    def unrecorded(self) -> Collection[str]:
        """Ids of boxes whose newest changes are in memory alone, for the disk takes none."""
        ...

    def list_boxes(
        self, status: BoxStatus | None, page_size: int, page_token: str | None
    ) -> tuple[list[Box], str | None]: ...
    async def start(self, ref: str) -> Box: ...
    async def stop(self, ref: str, timeout_seconds: float = 30) -> Box: ...
    async def restart(self, ref: str, timeout_seconds: float = 30) -> Box: ...
    async def kill(self, ref: str, signal: int = 9) -> Box: ...
    async def remove(self, ref: str, force: bool = False) -> None: ...
    async def wait(self, ref: str, timeout_seconds: float | None) -> Box:
        """Returns the box once it does not run. Raises Timeout when the time is over first."""
        ...

    async def reset_failed(self, ref: str) -> Box: ...
    def crash(self, ref: str, previous: bool = False) -> CrashReportView: ...
    def console_log(self, ref: str) -> LogReader: ...
    async def box_metrics(self, ref: str) -> dict[str, Any]: ...


class FilesPort(Protocol):
    """Tar streams into and out of a running box; Stopped when it does not run."""

    async def put_files(
        self,
        ref: str,
        path: str,
        overwrite: bool,
        chunks: AsyncIterator[bytes],
        *,
        source_is_dir: bool | None = None,
    ) -> None:
        """Takes `chunks` to their end, as fast as the box does; what they raise comes out again.

        Returns once everything is in place. On any error and when cancelled the box is as before.
        """
        ...

    def get_files(
        self, ref: str, path: str, follow_symlinks: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The iterator ends only behind the last byte of a whole tar; it raises when that cannot come.

        What is wrong with box or path is raised on entry, or before the first chunk.
        """
        ...


class SupervisorPort(BoxesPort, ExecutionsPort, FilesPort, Protocol):
    """Everything that the API asks for."""

    async def reconcile(self, dry_run: bool = False) -> list[dict[str, Any]]: ...
    def metrics(self) -> dict[str, Any]: ...
    async def events_since(self, seq: int, limit: int) -> list[Event]:
        """Events with a number above `seq`, in order, at most `limit`."""
        ...

    def subscribe_events(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """Live events. The channel is bounded, and closed on a reader that is too slow."""
        ...

    def capabilities(self) -> dict[str, Any]: ...
    @property
    def last_event_seq(self) -> int: ...
    @property
    def is_ready(self) -> bool: ...
