"""The client of boxlited, for programs. Imports nothing of the daemon.

from boxlited.client import Client

with Client() as client:
    box = client.create({"name": "web", "image": "host"})
    print(client.run_command("web", ["uname", "-a"]).stdout)

`AsyncClient` is the same for trio and asyncio. What only it and attachments need (anyio, h11,
wsproto) is imported when it is used: a program that lists boxes starts without it.
"""

from typing import TYPE_CHECKING, Any

from boxlited.client.client import Client
from boxlited.client.errors import ConnectionFailed, ConnectionLost, NoDaemon, SocketForbidden
from boxlited.client.event_stream import EventStream
from boxlited.client.paths import default_socket
from boxlited.client.values import (
    STDERR,
    STDOUT,
    BoxInfo,
    Completed,
    CrashInfo,
    EventInfo,
    ExecutionInfo,
    Output,
    ReconcileEntry,
)

if TYPE_CHECKING:
    from boxlited.client.async_attachment import AsyncAttachment
    from boxlited.client.async_client import AsyncClient
    from boxlited.client.attachment import Attachment

_LATER = {
    "AsyncAttachment": "boxlited.client.async_attachment",
    "AsyncClient": "boxlited.client.async_client",
    "Attachment": "boxlited.client.attachment",
}

__all__ = [
    "STDERR",
    "STDOUT",
    "AsyncAttachment",
    "AsyncClient",
    "Attachment",
    "BoxInfo",
    "Client",
    "Completed",
    "ConnectionFailed",
    "ConnectionLost",
    "CrashInfo",
    "EventInfo",
    "EventStream",
    "ExecutionInfo",
    "NoDaemon",
    "Output",
    "ReconcileEntry",
    "SocketForbidden",
    "default_socket",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
