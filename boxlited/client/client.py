"""The typed, synchronous client: one method for each route of the daemon.

A `ref` is a box's id or its name. Every method raises a class of `boxlited.errors` (the daemon's
answer) or of `boxlited.client.errors` (no answer). Times are seconds. Not async; one client may
be used by several threads, and is closed by one of them once the others are done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from boxlited.client.paths import default_socket
from boxlited.client.sse import Parser
from boxlited.client.transport import ByteStream, Transport
from boxlited.client.values import Boxes, BoxInfo, CrashInfo, EventInfo, ReconcileEntries
from boxlited.errors import InvalidArgument, Timeout

CALL_SECONDS = 30.0
LONG_POLL_SECONDS = 30.0
SHORTEST_POLL_SECONDS = 0.2  # should the daemon answer at once that the box still runs
STILL_RUNNING = frozenset({"running", "stopping", "paused", "unknown"})
GRACE_SECONDS = 15.0  # how much longer than the daemon's own deadline the client waits


class Client:
    """Talks to one daemon. Use it as a context manager, or close it."""

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        base_url: str | None = None,
        token: str | None = None,
    ) -> None:
        path = Path(socket) if socket is not None else default_socket()
        self._transport = Transport(path, base_url, token)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @property
    def where(self) -> str:
        """The socket or URL that this client talks to."""
        return self._transport.where

    # ---- boxes

    def create(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> BoxInfo:
        """Create a box and do not start it. With the same key, a repeat returns the first box."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return cast(BoxInfo, self._call("POST", "/v1/boxes", body=dict(spec), headers=headers))

    def get(self, ref: str) -> BoxInfo:
        return cast(BoxInfo, self._call("GET", _box(ref)))

    def list(self, status: str | None = None, *, page_size: int = 1000) -> Boxes:
        """Every box, over as many pages as it takes."""
        params: dict[str, str | int] = {"pageSize": page_size}
        if status is not None:
            params["status"] = status
        boxes: Boxes = []
        while True:
            page = self._call("GET", "/v1/boxes", params=params)
            boxes += page["boxes"]
            token = page.get("next_page_token")
            if not token:
                return boxes
            params["pageToken"] = token

    def start(self, ref: str) -> BoxInfo:
        return cast(BoxInfo, self._call("POST", _box(ref, "start"), timeout_seconds=120.0))

    def stop(self, ref: str, timeout_seconds: float = 30.0) -> BoxInfo:
        """Stop gently, and by force after `timeout_seconds`."""
        return self._stopping(ref, "stop", timeout_seconds)

    def restart(self, ref: str, timeout_seconds: float = 30.0) -> BoxInfo:
        return self._stopping(ref, "restart", timeout_seconds)

    def kill(self, ref: str, signal: int = 9) -> BoxInfo:
        """Send a signal to the box's workload."""
        return cast(BoxInfo, self._call("POST", _box(ref, "kill"), body={"signal": signal}))

    def remove(self, ref: str, *, force: bool = False) -> None:
        """Remove a box; with `force` a running one is killed first."""
        params = {"force": "true"} if force else None
        self._call("DELETE", _box(ref), params=params, timeout_seconds=60.0)

    def reset_failed(self, ref: str) -> BoxInfo:
        return cast(BoxInfo, self._call("POST", _box(ref, "reset-failed")))

    def wait(self, ref: str, timeout_seconds: float | None = None) -> BoxInfo:
        """Wait until the box does not run. Raises Timeout when `timeout_seconds` pass first."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = LONG_POLL_SECONDS if end is None else end - time.monotonic()
            poll = max(0.0, min(LONG_POLL_SECONDS, left))
            began = time.monotonic()
            try:
                box = self._wait_once(ref, poll)
            except Timeout:
                box = None
            if box is not None and box.get("status") not in STILL_RUNNING:
                return box
            if end is not None and time.monotonic() >= end:
                raise Timeout(f"box {ref} still runs after {timeout_seconds:g} s")
            time.sleep(max(0.0, min(poll, SHORTEST_POLL_SECONDS) - (time.monotonic() - began)))

    def _wait_once(self, ref: str, poll_seconds: float) -> BoxInfo:
        body = {"timeout_seconds": poll_seconds}
        seconds = poll_seconds + GRACE_SECONDS
        return cast(BoxInfo, self._call("POST", _box(ref, "wait"), body=body, timeout_seconds=seconds))

    def _stopping(self, ref: str, verb: str, timeout_seconds: float) -> BoxInfo:
        body = {"timeout_seconds": timeout_seconds}
        seconds = timeout_seconds + CALL_SECONDS + GRACE_SECONDS
        return cast(BoxInfo, self._call("POST", _box(ref, verb), body=body, timeout_seconds=seconds))

    # ---- what a box said and why it died

    def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> ByteStream:
        """The console log as raw bytes: the box wrote them, they are not safe for a terminal.

        With `follow` it ends when the box stops. `since` is in Unix seconds.
        """
        params: dict[str, str | int] = {}
        if follow:
            params["follow"] = "true"
        if tail is not None:
            params["tail"] = tail
        if since is not None:
            params["since"] = f"{since:.3f}"
        return self._transport.stream(_box(ref, "logs"), params)

    def crash(self, ref: str, *, previous: bool = False) -> CrashInfo:
        """The report of the last crash, or of the life before. Raises NotFound when there is none."""
        return cast(CrashInfo, self._call("GET", _box(ref, "crash/previous" if previous else "crash")))

    def box_metrics(self, ref: str) -> dict[str, Any]:
        return cast(dict[str, Any], self._call("GET", _box(ref, "metrics")))

    # ---- the daemon

    def last_event_seq(self) -> int:
        """The number of the newest event."""
        return int(self.metrics()["events_last_seq"])

    def events(self, since: int | None = None, *, follow: bool = True) -> EventStream:
        """Every transition from now on, and first those after number `since`, when given.

        Without `follow` it ends with the event that is the newest at the time of this call.
        """
        last = None if follow else self.last_event_seq()
        if last is not None and last <= (since or 0):
            return EventStream(None, last)
        params: dict[str, str | int] = {} if since is None and follow else {"since": since or 0}
        return EventStream(self._transport.stream("/v1/events", params), last)

    def reconcile(self, *, dry_run: bool = False) -> ReconcileEntries:
        """One pass now. Returns what it saw, decided and did, one entry a box."""
        params = {"dry_run": "true"} if dry_run else None
        reply = self._call("POST", "/v1/reconcile", params=params, timeout_seconds=120.0)
        entries = reply.get("boxes", reply.get("entries", [])) if isinstance(reply, dict) else reply
        return cast(ReconcileEntries, entries)

    def metrics(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._call("GET", "/v1/metrics"))

    def config(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._call("GET", "/v1/config"))

    def me(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._call("GET", "/v1/me"))

    def health(self) -> dict[str, Any]:
        """Raises when the daemon is not there or not well."""
        reply = self._call("GET", "/healthz", timeout_seconds=5.0)
        return reply if isinstance(reply, dict) else {"status": reply}

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Any:
        return self._transport.request(
            method, path, body=body, params=params, headers=headers, timeout_seconds=timeout_seconds
        )


class EventStream:
    """An open stream of events. Iterate; close it to stop. Ends when the daemon ends it, or with
    event `last`. Without a stream it is empty."""

    def __init__(self, stream: ByteStream | None, last: int | None) -> None:
        self._stream = stream
        self._last = last

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def __iter__(self) -> Iterator[EventInfo]:
        parser = Parser()
        for chunk in self._stream or ():
            for message in parser.feed(chunk):
                event = _event(message.event, message.data)
                yield event
                if self._last is not None and event.get("seq", 0) >= self._last:
                    return


def _event(kind: str, data: str) -> EventInfo:
    try:
        value = json.loads(data)
    except ValueError:
        value = data
    if isinstance(value, dict) and "kind" in value:
        return cast(EventInfo, value)
    return {"kind": kind, "data": value if isinstance(value, dict) else {"message": value}}


def _box(ref: str, suffix: str = "") -> str:
    """The path of a box. "." and ".." would name another route: they are no box's name anyway."""
    if not ref or ref in {".", ".."}:
        raise InvalidArgument(f"{ref!r} is not the name or id of a box")
    path = "/v1/boxes/" + quote(ref, safe="")
    return f"{path}/{suffix}" if suffix else path
