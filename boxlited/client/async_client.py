"""The typed client for trio and asyncio. Each method is awaited and means what the one of `Client`
of the same name means; what takes no round trip of its own is the same object.

One client may be used by several tasks of one event loop. Cancelling a call closes its connection;
whether it took effect is then not known.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from boxlited.client import calls, copying, flows
from boxlited.client.async_attachment import AsyncAttachment, AsyncLink, completed
from boxlited.client.async_transport import AsyncByteStream, AsyncTransport
from boxlited.client.calls import Call, ExecRequest
from boxlited.client.event_stream import EventReader
from boxlited.client.flows import Flow, Pause
from boxlited.client.paths import default_socket
from boxlited.client.tars import pieces_of
from boxlited.client.values import (
    Boxes,
    BoxInfo,
    Completed,
    CrashInfo,
    EventInfo,
    ExecutionInfo,
    ExecutionInfos,
    ReconcileEntries,
)
from boxlited.errors import BoxlitedError

T = TypeVar("T")


class AsyncClient:
    """Talks to one daemon. Use it as an asynchronous context manager, or close it."""

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        base_url: str | None = None,
        token: str | None = None,
        retry_seconds: float = flows.RETRY_SECONDS,
    ) -> None:
        path = Path(socket) if socket is not None else default_socket()
        self._transport = AsyncTransport(path, base_url, token)
        self._retry_seconds = retry_seconds

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    @property
    def where(self) -> str:
        return self._transport.where

    # ---- boxes

    async def create(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> BoxInfo:
        return await self._ask(calls.create(spec, idempotency_key))

    async def get(self, ref: str) -> BoxInfo:
        return await self._ask(calls.get(ref))

    async def list(self, status: str | None = None, *, page_size: int = 1000) -> Boxes:
        return await self._run(flows.every_box(status, page_size))

    async def start(self, ref: str) -> BoxInfo:
        return await self._ask(calls.start(ref))

    async def stop(self, ref: str, timeout_seconds: float = 30.0) -> BoxInfo:
        return await self._ask(calls.stop(ref, timeout_seconds))

    async def restart(self, ref: str, timeout_seconds: float = 30.0) -> BoxInfo:
        return await self._ask(calls.restart(ref, timeout_seconds))

    async def kill(self, ref: str, signal: int = 9) -> BoxInfo:
        return await self._ask(calls.kill(ref, signal))

    async def remove(self, ref: str, *, force: bool = False) -> None:
        await self._ask(calls.remove(ref, force))

    async def reset_failed(self, ref: str) -> BoxInfo:
        return await self._ask(calls.reset_failed(ref))

    async def wait(self, ref: str, timeout_seconds: float | None = None) -> BoxInfo:
        return await self._run(flows.ended(ref, timeout_seconds, anyio.current_time))

    # ---- what a box said and why it died

    async def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> AsyncByteStream:
        return await self._transport.stream(calls.logs(ref, follow, tail, since))

    async def crash(self, ref: str, *, previous: bool = False) -> CrashInfo:
        return await self._ask(calls.crash(ref, previous))

    async def box_metrics(self, ref: str) -> dict[str, Any]:
        return await self._ask(calls.box_metrics(ref))

    # ---- commands in a box

    async def exec(
        self,
        ref: str,
        command: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        user: str | None = None,
        tty: bool = False,
        cols: int | None = None,
        rows: int | None = None,
        timeout_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> ExecutionInfo:
        request = ExecRequest(
            command=command, args=args, env=env, working_dir=working_dir, user=user, tty=tty, cols=cols, rows=rows,
            timeout_seconds=timeout_seconds,
        )  # fmt: skip
        return await self._ask(calls.execute(ref, request, idempotency_key))

    async def executions(self, ref: str) -> ExecutionInfos:
        return await self._ask(calls.executions(ref))

    async def execution(self, ref: str, execution_id: str) -> ExecutionInfo:
        return await self._ask(calls.execution(ref, execution_id))

    async def kill_execution(self, ref: str, execution_id: str) -> None:
        await self._ask(calls.kill_execution(ref, execution_id))

    async def signal_execution(self, ref: str, execution_id: str, signal: int) -> None:
        await self._ask(calls.signal_execution(ref, execution_id, signal))

    async def resize_execution(self, ref: str, execution_id: str, cols: int, rows: int) -> None:
        await self._ask(calls.resize_execution(ref, execution_id, cols, rows))

    async def attach(
        self, ref: str, execution_id: str, since: int | None = None, *, reconnect: bool = False
    ) -> AsyncAttachment:
        async def link_again(offset: int | None) -> AsyncLink:
            call = calls.attach(ref, execution_id, offset)
            flow = flows.reopened(call, self._retry_seconds, anyio.current_time, lambda: False)  # is cancelled
            return cast(AsyncLink, await self._run(flow, self._transport.upgrade))

        link = await self._transport.upgrade(calls.attach(ref, execution_id, since))
        return AsyncAttachment(link, link_again if reconnect else None, since)

    async def run_command(
        self,
        ref: str,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        user: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Completed:
        command, *args = calls.checked_argv(argv)
        started = await self.exec(
            ref, command, *args, env=env, working_dir=working_dir, user=user, timeout_seconds=timeout_seconds
        )
        async with await self.attach(ref, started["execution_id"], 0, reconnect=not input) as attachment:
            return await completed(attachment, input)

    # ---- files

    async def put_files(
        self,
        ref: str,
        path: str,
        content: bytes | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes],
        *,
        overwrite: bool = True,
    ) -> None:
        pieces = content if isinstance(content, AsyncIterable) else pieces_of(content)
        await self._transport.upload(calls.put_files(ref, path, overwrite), pieces)

    async def get_files(self, ref: str, path: str, *, follow_symlinks: bool = False) -> AsyncByteStream:
        return await self._transport.stream(calls.get_files(ref, path, follow_symlinks))

    async def copy_in(self, host_path: str | Path, ref: str, box_path: str, *, follow_symlinks: bool = False) -> None:
        work = partial(copying.copy_in, _FilesOfThread(self), str(host_path), ref, box_path, follow_symlinks)
        await anyio.to_thread.run_sync(work)

    async def copy_out(self, ref: str, box_path: str, host_path: str | Path, *, follow_symlinks: bool = False) -> None:
        work = partial(copying.copy_out, _FilesOfThread(self), ref, box_path, str(host_path), follow_symlinks)
        await anyio.to_thread.run_sync(work)

    # ---- the daemon

    async def last_event_seq(self) -> int:
        return await self._run(flows.last_event_seq())

    async def events(self, since: int | None = None, *, follow: bool = True) -> AsyncEventStream:
        last = None if follow else await self.last_event_seq()
        if last is not None and last <= (since or 0):
            return AsyncEventStream(None, last)
        call = calls.events(None if since is None and follow else since or 0)
        return AsyncEventStream(await self._transport.stream(call), last)

    async def reconcile(self, *, dry_run: bool = False) -> ReconcileEntries:
        return await self._run(flows.reconciled(dry_run))

    async def metrics(self) -> dict[str, Any]:
        return await self._ask(calls.metrics())

    async def config(self) -> dict[str, Any]:
        return await self._ask(calls.config())

    async def me(self) -> dict[str, Any]:
        return await self._ask(calls.me())

    async def health(self) -> dict[str, Any]:
        return await self._run(flows.healthy())

    async def _ask(self, call: Call[T]) -> T:
        return await self._run(flows.asked(call, self._retry_seconds, anyio.current_time))

    async def _run(self, flow: Flow[T], perform: Callable[[Call[Any]], Awaitable[Any]] | None = None) -> T:
        """Does the steps of a flow, each call by `perform` (a request, when not given)."""
        perform = perform or self._transport.request
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    await anyio.sleep(step.seconds)
                    step = next(flow)
                    continue
                try:
                    answer = await perform(step)
                except BoxlitedError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            return cast(T, end.value)


class AsyncEventStream:
    """An open stream of events, as `EventStream`."""

    def __init__(self, stream: AsyncByteStream | None, last: int | None) -> None:
        self._stream = stream
        self._reader = EventReader(last)
        self._events: Iterator[EventInfo] = iter(())

    async def __aenter__(self) -> AsyncEventStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.close()

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> EventInfo:
        while (event := next(self._events, None)) is None:
            chunk = b"" if self._stream is None or self._reader.ended else await self._stream.receive()
            if not chunk:
                raise StopAsyncIteration
            self._events = self._reader.feed(chunk)
        return event


class _FilesOfThread:
    """The files of boxes for code that blocks, in a thread of `anyio.to_thread`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def put_files(self, ref: str, path: str, content: Iterable[bytes]) -> None:
        anyio.from_thread.run(self._client.put_files, ref, path, content)

    def get_files(self, ref: str, path: str, *, follow_symlinks: bool = False) -> _StreamOfThread:
        get = partial(self._client.get_files, follow_symlinks=follow_symlinks)
        return _StreamOfThread(anyio.from_thread.run(get, ref, path))


class _StreamOfThread:
    def __init__(self, stream: AsyncByteStream) -> None:
        self._stream = stream
        self.headers = stream.headers

    def __enter__(self) -> _StreamOfThread:
        return self

    def __exit__(self, *_: object) -> None:
        anyio.from_thread.run(self._stream.close)

    def __iter__(self) -> Iterator[bytes]:
        while chunk := anyio.from_thread.run(self._stream.receive):
            yield chunk
