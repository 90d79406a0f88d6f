"""The client of boxlited, for programs. Imports nothing of the daemon.

from boxlited.client import Client

with Client() as client:
    box = client.create({"name": "web", "image": "host", "cmd": ["sleep", "60"]})
    client.start(box["box_id"])
"""

from boxlited.client.client import Client, EventStream
from boxlited.client.errors import ConnectionFailed, ConnectionLost, NoDaemon, SocketForbidden
from boxlited.client.paths import default_socket
from boxlited.client.values import BoxInfo, CrashInfo, EventInfo, ReconcileEntry

__all__ = [
    "BoxInfo",
    "Client",
    "ConnectionFailed",
    "ConnectionLost",
    "CrashInfo",
    "EventInfo",
    "EventStream",
    "NoDaemon",
    "ReconcileEntry",
    "SocketForbidden",
    "default_socket",
]
