"""Where the daemon's socket is, when nobody says.

Owns the client's copy of one rule that the daemon keeps too (a test holds the two equal); the
client may not import the daemon. Reads the environment, touches no file.
"""

from __future__ import annotations

import os
from pathlib import Path

from boxlited.client.errors import NoDaemon

SYSTEM_SOCKET = Path("/run/boxlited/boxlited.sock")


def default_socket() -> Path:
    """$BOXLITED_SOCKET; as root the system's socket; else the user's own. Raises NoDaemon without a home."""
    named = os.environ.get("BOXLITED_SOCKET")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return SYSTEM_SOCKET
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "boxlited" / "boxlited.sock"
    try:
        return Path.home() / ".local" / "share" / "boxlited" / "boxlited.sock"
    except RuntimeError as error:
        summary = f"user {os.geteuid()} has no home directory, where the daemon's socket would be"
        raise NoDaemon(summary, "set BOXLITED_SOCKET or HOME") from error
