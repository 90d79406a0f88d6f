"""Long polls: run an operation, but no longer than its client or the server is there.

The web server does not cancel a handler when its client goes: whoever may wait long asks here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from boxlited.api.call import Call
from boxlited.api.replies import Receive
from boxlited.errors import BoxlitedError, EngineUnavailable

T = TypeVar("T")


async def until_disconnect(call: Call, operation: Callable[[], Awaitable[T]]) -> T | None:
    """The result; None when the client went away (nobody reads the reply then).

    Raises what the operation raises, and EngineUnavailable when the server stops. Cancels the
    operation in both cases, so it must be one that only looks.
    """
    result: T | None = None
    failure: BoxlitedError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_disconnect, call.receive, nursery.cancel_scope)
        nursery.start_soon(cancel_when_set, call.services.stopping, nursery.cancel_scope)
        try:
            result = await operation()
        except BoxlitedError as error:  # raised outside, or the nursery would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if result is None and call.services.stopping.is_set():
        raise EngineUnavailable("the daemon is stopping; ask again when it is back")
    return result


async def cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def cancel_when_set(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
