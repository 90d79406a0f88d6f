"""The form of one line of the route table. Data only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from boxlited.api.call import Call
from boxlited.api.replies import Reply
from boxlited.api.streaming import StreamReply

Handler = Callable[[Call], Awaitable[Reply | StreamReply]]


@dataclass(frozen=True, slots=True)
class Query:
    """One key of the query string, or a header; `type` is anything that msgspec can describe."""

    name: str
    type: Any
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class RouteDef:
    """`errors` are the codes that this route adds to those that every route can answer with.

    `request` is the type of a JSON body, `{}` when it is left out. `streams_body` is the media type of a
    body that the handler takes itself, piece by piece: access is then asked for before a byte of it is taken.
    `public` says that no token is asked for.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    response: Any = None
    status: int = 200
    request: Any = None
    streams_body: str | None = None
    query: tuple[Query, ...] = ()
    headers: tuple[Query, ...] = ()
    errors: tuple[str, ...] = ()
    public: bool = False
    media_type: str = "application/json"
