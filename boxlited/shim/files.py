"""Archives in and out of a box: a guest inside it goes on with the client's connection. Standard library only."""

import json
import os
import socket
from typing import Any

from boxlited.shim import frames
from boxlited.shim.birth import Birth
from boxlited.shim.control import Connection
from boxlited.shim.engines.base import EngineError
from boxlited.shim.enter import fork_guest
from boxlited.shim.frames import Kind
from boxlited.shim.loop import Loop
from boxlited.shim.workload import Workload


def serve_files(connection: Connection, request: dict[str, Any], workload: Workload, loop: Loop) -> None:
    """Hand the connection to a guest that does the work. Raises EngineError, OSError."""
    raise EngineError("unsupported", "files are not supported by this version")


__all__ = ["Birth", "Kind", "fork_guest", "frames", "json", "os", "serve_files", "socket"]
