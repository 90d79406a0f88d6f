"""What a reply means: decoded JSON, or the exception for a refusal. Pure; shared by both clients."""

from __future__ import annotations

import json
from typing import Any

from boxlited.client.errors import from_reply
from boxlited.errors import BoxlitedError, Internal


def is_success(status: int) -> bool:
    return 200 <= status < 300


def content_of(body: object) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def decoded(status: int, content: bytes, operation: str) -> Any:
    """The JSON of a success, None when it has no body. Raises the daemon's refusal."""
    if not is_success(status):
        raise refusal(status, content, operation)
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise Internal(f"{operation}: the answer is not JSON; is this really boxlited?") from error


def refusal(status: int, content: bytes, operation: str) -> BoxlitedError:
    try:
        body: object = json.loads(content)
    except ValueError:
        body = None
    return from_reply(status, body, operation)
