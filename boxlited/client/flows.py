"""Work that takes more than one call: repeating, paging, waiting. No I/O of its own.

A flow is a generator: it yields a Call or a Pause and is sent what the call answered, or thrown
what it raised. The synchronous and the asynchronous client each have one loop that does the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar, cast

from boxlited.client import calls
from boxlited.client.calls import Call
from boxlited.client.errors import ConnectionFailed, ConnectionLost, NoDaemon
from boxlited.client.values import Boxes, BoxInfo, ReconcileEntries
from boxlited.errors import AlreadyExists, BoxlitedError, EngineUnavailable, InvalidState, Timeout

LONG_POLL_SECONDS = 30.0
SHORTEST_POLL_SECONDS = 0.2  # should the daemon answer at once that the box still runs
STILL_RUNNING = frozenset({"running", "stopping", "paused", "unknown"})

RETRY_SECONDS = 30.0
ABSENT_SECONDS = 0.5  # a daemon that was never seen: it may be on its way up, or there is none
BUSY_SECONDS = 3.0  # a daemon that says it is unavailable: it stops, recovers, or means it
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

T = TypeVar("T")


class Pause(NamedTuple):
    seconds: float


Step = Call[Any] | Pause
Flow = Generator[Step, Any, T]
Clock = Callable[[], float]


def asked(call: Call[T], retry_seconds: float, now: Clock) -> Flow[T]:
    """The call; with an idempotency key again, within bounds, when no answer came or "unavailable"."""
    if call.key is None:
        return cast(T, (yield call))
    began, pause, seen = now(), FIRST_PAUSE_SECONDS, False
    while True:
        try:
            return cast(T, (yield call))
        except (ConnectionLost, EngineUnavailable, NoDaemon) as error:
            failure: BoxlitedError = error
        bound = min(retry_seconds, bound_for(failure, seen))
        seen = seen or not isinstance(failure, NoDaemon)
        if now() - began + pause > bound:
            raise failure
        yield Pause(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def bound_for(failure: BoxlitedError, seen: bool) -> float:
    """For how long a failure may be the daemon's restart. `seen`: it was there a moment ago."""
    if isinstance(failure, EngineUnavailable):
        return BUSY_SECONDS
    if isinstance(failure, NoDaemon) and not seen:
        return ABSENT_SECONDS
    return float("inf")


def reopened(open_again: Call[T], retry_seconds: float, now: Clock, given_up: Callable[[], bool]) -> Flow[T]:
    """A lost attachment is opened again: the daemon was there, so it is waited for, and so is its
    noticing (409 till then) that we are no longer attached. Until `given_up()` says that nobody
    wants it any more."""
    began, pause = now(), FIRST_PAUSE_SECONDS
    while True:
        try:
            return cast(T, (yield open_again))
        except (ConnectionFailed, EngineUnavailable, InvalidState, AlreadyExists):
            if now() - began + pause > retry_seconds or given_up():
                raise
        yield Pause(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def every_box(status: str | None, page_size: int) -> Flow[Boxes]:
    """Every box, over as many pages as it takes."""
    boxes: Boxes = []
    token = None
    while True:
        page = yield calls.page(status, page_size, token)
        boxes += page["boxes"]
        token = page.get("next_page_token")
        if not token:
            return boxes


def ended(ref: str, timeout_seconds: float | None, now: Clock) -> Flow[BoxInfo]:
    """Wait until the box does not run. Raises Timeout when `timeout_seconds` pass first."""
    end = None if timeout_seconds is None else now() + timeout_seconds
    while True:
        left = LONG_POLL_SECONDS if end is None else end - now()
        poll = max(0.0, min(LONG_POLL_SECONDS, left))
        began = now()
        try:
            box = yield calls.wait(ref, poll)
        except Timeout:
            box = None
        if box is not None and box.get("status") not in STILL_RUNNING:
            return cast(BoxInfo, box)
        if end is not None and now() >= end:
            raise Timeout(f"box {ref} still runs after {timeout_seconds:g} s")
        yield Pause(max(0.0, min(poll, SHORTEST_POLL_SECONDS) - (now() - began)))


def reconciled(dry_run: bool) -> Flow[ReconcileEntries]:
    reply = yield calls.reconcile(dry_run)
    entries = reply.get("boxes", reply.get("entries", [])) if isinstance(reply, dict) else reply
    return cast(ReconcileEntries, entries)


def healthy() -> Flow[dict[str, Any]]:
    reply = yield calls.health()
    return reply if isinstance(reply, dict) else {"status": reply}


def last_event_seq() -> Flow[int]:
    reply = yield calls.metrics()
    return int(reply["events_last_seq"])
