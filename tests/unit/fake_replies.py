"""What the parts of the fake daemon answer with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Answer = tuple[int, Any]


class Upgrade:
    """A body that says: speak WebSocket now, by `serve(socket, headers, path)`."""

    def __init__(self, serve: Callable[[Any, list[tuple[bytes, bytes]], str], None]) -> None:
        self.serve = serve


def problem(status: int, code: str, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "error", "code": code, "request_id": "req-1"}}
