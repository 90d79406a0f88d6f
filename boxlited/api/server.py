"""Serves the API on its listeners until it is told to stop or cancelled.

Owns the accepting tasks and the life of the connections. Shutdown: nothing new is accepted,
streams and long polls end at once, requests in flight have `grace_seconds`, then their
connections are closed. Cancelling `serve` does the same, so it returns up to that much later.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from boxlited.api.app import build_app
from boxlited.api.connection import BoundedStream, Connection, make_config
from boxlited.api.listeners import Listener
from boxlited.api.ports import SupervisorPort
from boxlited.api.principal import token_principal, unix_principal
from boxlited.api.services import Services

GRACE_SECONDS = 5.0
MAX_CONNECTIONS = 1024
_ACCEPT_PAUSE_SECONDS = 0.1
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

log = structlog.get_logger("boxlited.api")


class ApiServer:
    """`serve` may run once. It closes the listeners that it was given."""

    def __init__(
        self,
        supervisor: SupervisorPort,
        listeners: Sequence[Listener],
        *,
        grace_seconds: float = GRACE_SECONDS,
        max_upload_bytes: int = 16 << 30,
        stop_seconds: float = 30.0,
        home: str | None = None,
    ) -> None:
        self._listeners = tuple(listeners)
        self._grace_seconds = grace_seconds
        self._services = Services(supervisor, max_upload_bytes, stop_seconds, home)
        self._app = ASGIWrapper(cast(ASGIFramework, build_app(self._services)))
        self._config = make_config()
        self._context = WorkerContext(None)
        self._streams: set[BoundedStream] = set()
        self._idle = trio.Event()

    def stop(self) -> None:
        """Begin the shutdown; `serve` returns when it has ended. May be called twice."""
        self._services.stopping.set()

    async def serve(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Started with the addresses once every listener accepts."""
        async with trio.open_nursery() as outer:
            connections: trio.Nursery = await outer.start(self._hold_connections)
            try:
                async with trio.open_nursery() as acceptors:
                    for listener in self._listeners:
                        acceptors.start_soon(self._accept, listener, connections)
                    task_status.started([listener.address for listener in self._listeners])
                    await self._services.stopping.wait()
                    acceptors.cancel_scope.cancel()
            finally:
                for listener in self._listeners:
                    listener.close()
                self.stop()

    async def _hold_connections(self, *, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps connections out of reach of a cancellation from outside until they had their grace."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await self._services.stopping.wait()
                await self._context.terminated.set()  # idle connections close themselves
                with trio.move_on_after(self._grace_seconds):
                    await self._all_closed()
                for stream in self._streams:
                    stream.abort()
                nursery.cancel_scope.cancel()

    async def _all_closed(self) -> None:
        if self._streams:
            await self._idle.wait()

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        listener.sock.setblocking(False)
        acceptor = trio.SocketListener(trio.socket.from_stdlib_socket(listener.sock))
        while True:
            try:
                stream = await acceptor.accept()
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                log.warning("accept_failed", address=listener.address, error=str(error))
                await trio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._streams) >= MAX_CONNECTIONS:
                log.warning("connection_refused", address=listener.address, limit=MAX_CONNECTIONS)
                await trio.aclose_forcefully(stream)
                continue
            bounded = BoundedStream(stream)
            self._streams.add(bounded)
            connections.start_soon(self._serve_connection, listener, bounded)

    async def _serve_connection(self, listener: Listener, stream: BoundedStream) -> None:
        try:
            state = connection_state(listener, stream)
            await Connection(self._app, self._config, self._context, state, stream).run()
        except OSError as error:
            log.info("connection_lost", address=listener.address, error=str(error))
        except Exception:  # a bug in one connection must not take the others down
            log.exception("connection_bug", address=listener.address)
        finally:
            stream.abort()
            self._streams.discard(stream)
            if self._services.stopping.is_set() and not self._streams:
                self._idle.set()


def connection_state(listener: Listener, stream: BoundedStream) -> dict[str, Any]:
    """What the app learns of a connection through `scope["state"]`. Raises OSError."""
    state: dict[str, Any] = {"abort": stream.abort, "is_gone": stream.is_gone}
    if listener.token is not None:
        return {**state, "token": listener.token, "principal": token_principal(listener.read_only)}
    peer = unix_principal(stream.socket, listener.read_only)
    if listener.rights is None or not listener.rights.admit(peer):
        state["refusal"] = f"uid {peer.uid} may not use {listener.address}: it is not in the socket's group"
    return {**state, "principal": peer}
