"""Errors on the wire: `{"error": {"message", "type", "code", "request_id"}}`.

Owns the public `type` names (those of the BoxLite contract). The mapping code -> status is
`boxlited.errors`. A traceback goes to the log and never into a reply.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from boxlited.api.replies import Headers, Reply, json_reply
from boxlited.errors import (
    BoxlitedError,
    EngineUnavailable,
    InvalidArgument,
    NotFound,
    Unauthenticated,
)

TYPES = {
    "invalid_argument": "InvalidArgumentError",
    "unauthenticated": "AuthError",
    "permission_denied": "AuthError",
    "not_found": "NotFoundError",
    "already_exists": "AlreadyExistsError",
    "invalid_state": "InvalidStateError",
    "stopped": "StoppedError",
    "unsupported": "UnsupportedError",
    "image_pull_failed": "ImageError",
    "resource_exhausted": "ResourceExhaustedError",
    "storage_error": "StorageError",
    "database_error": "DatabaseError",
    "internal": "InternalError",
    "engine_unavailable": "EngineError",
    "timeout": "TimeoutError",
}


class MethodNotAllowed(InvalidArgument):
    """The path exists, this method of it does not."""

    status = 405

    def __init__(self, method: str, path: str, allowed: list[str]) -> None:
        super().__init__(f"{method} is not a method of {path}; use {', '.join(allowed)}")
        self.allowed = allowed


class NoRoute(NotFound):
    """No route has this path."""


class BodyRefused(InvalidArgument):
    """The body was not read to its end: the connection cannot be used any more."""


class UnsupportedMediaType(InvalidArgument):
    """The body is of a kind that the route does not take."""

    status = 415


class Error(msgspec.Struct, frozen=True):
    """`code` is what a program decides by; `request_id` is in the header X-Request-Id and in the daemon's log."""

    message: str
    type: Annotated[str, Meta(extra_json_schema={"enum": sorted({*TYPES.values()})})]
    code: Annotated[str, Meta(extra_json_schema={"enum": sorted(TYPES)})]
    request_id: str


class ErrorBody(msgspec.Struct, frozen=True):
    error: Error


def error_reply(error: BoxlitedError, request_id: str) -> Reply:
    kind = TYPES.get(error.code, "InternalError")
    body = ErrorBody(Error(error.message, kind, error.code, request_id))
    return json_reply(body, error.status, _headers(error))


def _headers(error: BoxlitedError) -> Headers:
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", ", ".join(error.allowed).encode()),)
    if isinstance(error, Unauthenticated):
        return ((b"www-authenticate", b'Bearer realm="boxlited"'),)
    if isinstance(error, EngineUnavailable):
        return ((b"retry-after", b"1"),)
    if isinstance(error, BodyRefused):
        return ((b"connection", b"close"),)
    return ()
