"""The ASGI app: middleware around a Starlette router that is built from the route table."""

from __future__ import annotations

from starlette.routing import Route, Router, compile_path

from boxlited.api.absent import absent
from boxlited.api.call import Call
from boxlited.api.middleware import Envelope, Gate
from boxlited.api.problems import MethodNotAllowed, NoRoute
from boxlited.api.replies import ASGIApp, Receive, Reply, Scope, Send, send_reply
from boxlited.api.routes import ROUTES
from boxlited.api.services import Services
from boxlited.api.streaming import send_stream
from boxlited.api.table import Handler
from boxlited.errors import InvalidArgument

_REFUSED_ESCAPES = (b"%2f", b"%00")


def build_app(services: Services) -> ASGIApp:
    """The whole API as one ASGI callable. Wants `scope["state"]["principal"]` from the server."""
    by_path: dict[str, dict[str, Handler]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route.handler
    streaming = [(route.method, compile_path(route.path)[0]) for route in ROUTES if route.streams_body]

    def streams_body(call: Call) -> bool:
        path = call.scope["path"]
        return any(call.method == method and pattern.match(path) for method, pattern in streaming)

    routes = [Route(path, Methods(handlers)) for path, handlers in by_path.items()]
    router = Router(routes, redirect_slashes=False, default=_no_route)
    return Envelope(Gate(router, streams_body), services)


class Methods:
    """The handlers of one path, by method. HEAD is answered as GET without a body."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["boxlited.call"]
        raw = scope["raw_path"].lower()
        if b"%" in raw and any(escape in raw for escape in _REFUSED_ESCAPES):
            raise InvalidArgument("the path holds an escaped slash or NUL")
        call.params = scope["path_params"]
        handler = self._handlers.get(call.method)
        if handler is None and call.method == "HEAD":
            handler = self._handlers.get("GET")
        if handler is None:
            raise MethodNotAllowed(call.method, call.path[:256], sorted(self._handlers))
        reply = await handler(call)
        if isinstance(reply, Reply):
            await send_reply(send, reply)
        elif call.method == "HEAD":
            await send_reply(send, Reply(200))
        else:
            await send_stream(call, send, reply)


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    call: Call = scope["boxlited.call"]
    raise absent(call) or NoRoute(f"{call.method} {call.path[:256]} is not a route of this API; see /v1/openapi.json")
