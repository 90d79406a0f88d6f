"""Every route of the daemon as data: what to send for it, and what comes back. No I/O, no clock.

Shared by the synchronous and the asynchronous client. A call that carries an idempotency key is
the same request however often it is sent; no other call may be sent twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from boxlited.client.values import BoxInfo, CrashInfo, ExecutionInfo, ExecutionInfos
from boxlited.errors import InvalidArgument

CALL_SECONDS = 30.0
START_SECONDS = 120.0
REMOVE_SECONDS = 60.0
GRACE_SECONDS = 15.0  # how much longer than the daemon's own deadline the client waits
TAR = "application/x-tar"

Params = Mapping[str, str | int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request whose reply is a T. `timeout_seconds` bounds each silence of the daemon."""

    method: str
    path: str
    params: Params = field(default_factory=dict)
    body: object = None
    key: str | None = None
    timeout_seconds: float = CALL_SECONDS

    @property
    def operation(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.params)}" if self.params else self.path

    @property
    def headers(self) -> dict[str, str]:
        kind = {} if self.body is None else {"Content-Type": "application/json"}
        return kind if self.key is None else {**kind, "Idempotency-Key": self.key}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """What a command is to be started with, in a box."""

    command: str
    args: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    working_dir: str | None = None
    user: str | None = None
    tty: bool = False
    cols: int | None = None
    rows: int | None = None
    timeout_seconds: float | None = None

    def body(self) -> dict[str, Any]:
        names = ("command", "working_dir", "user", "tty", "cols", "rows", "timeout_seconds")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**given, "args": list(self.args), "env": dict(self.env or {})}


def checked_argv(argv: Sequence[str]) -> Sequence[str]:
    if isinstance(argv, str) or not argv:
        raise InvalidArgument(f"{argv!r} is no command: expected a list, the program first")
    return argv


def box_path(ref: str, *suffix: str) -> str:
    """The path of a box, or of something of it. "." and ".." would name another route: they are
    no box's name anyway."""
    if not ref or ref in {".", ".."}:
        raise InvalidArgument(f"{ref!r} is not the name or id of a box")
    return "/".join(["/v1/boxes", quote(ref, safe=""), *suffix])


def _execution_path(ref: str, execution_id: str, *suffix: str) -> str:
    if not execution_id or execution_id in {".", ".."}:
        raise InvalidArgument(f"{execution_id!r} is not the id of an execution")
    return box_path(ref, "executions", quote(execution_id, safe=""), *suffix)


# ---- boxes


def create(spec: Mapping[str, Any], key: str | None) -> Call[BoxInfo]:
    return Call(method="POST", path="/v1/boxes", body=dict(spec), key=key or uuid.uuid4().hex)


def page(status: str | None, size: int, token: str | None) -> Call[dict[str, Any]]:
    asked = {"pageSize": size, "status": status, "pageToken": token}
    params = {name: value for name, value in asked.items() if value is not None}
    return Call(method="GET", path="/v1/boxes", params=params)


def get(ref: str) -> Call[BoxInfo]:
    return Call(method="GET", path=box_path(ref))


def start(ref: str) -> Call[BoxInfo]:
    return Call(method="POST", path=box_path(ref, "start"), timeout_seconds=START_SECONDS)


def stop(ref: str, timeout_seconds: float) -> Call[BoxInfo]:
    return _stopping(ref, "stop", timeout_seconds)


def restart(ref: str, timeout_seconds: float) -> Call[BoxInfo]:
    return _stopping(ref, "restart", timeout_seconds)


def _stopping(ref: str, verb: str, timeout_seconds: float) -> Call[BoxInfo]:
    body = {"timeout_seconds": timeout_seconds}
    seconds = timeout_seconds + CALL_SECONDS + GRACE_SECONDS
    return Call(method="POST", path=box_path(ref, verb), body=body, timeout_seconds=seconds)


def kill(ref: str, signal: int) -> Call[BoxInfo]:
    return Call(method="POST", path=box_path(ref, "kill"), body={"signal": signal})


def remove(ref: str, force: bool) -> Call[None]:
    params = {"force": "true"} if force else {}
    return Call(method="DELETE", path=box_path(ref), params=params, timeout_seconds=REMOVE_SECONDS)


def reset_failed(ref: str) -> Call[BoxInfo]:
    return Call(method="POST", path=box_path(ref, "reset-failed"))


def wait(ref: str, poll_seconds: float) -> Call[BoxInfo]:
    body = {"timeout_seconds": poll_seconds}
    return Call(method="POST", path=box_path(ref, "wait"), body=body, timeout_seconds=poll_seconds + GRACE_SECONDS)


def logs(ref: str, follow: bool, tail: int | None, since: float | None) -> Call[bytes]:
    asked = {
        "follow": "true" if follow else None,
        "tail": tail,
        "since": None if since is None else f"{since:.3f}",
    }
    params = {name: value for name, value in asked.items() if value is not None}
    return Call(method="GET", path=box_path(ref, "logs"), params=params)


def crash(ref: str, previous: bool) -> Call[CrashInfo]:
    return Call(method="GET", path=box_path(ref, "crash", "previous") if previous else box_path(ref, "crash"))


def box_metrics(ref: str) -> Call[dict[str, Any]]:
    return Call(method="GET", path=box_path(ref, "metrics"))


# ---- commands in a box


def execute(ref: str, request: ExecRequest, key: str | None) -> Call[ExecutionInfo]:
    path = box_path(ref, "exec")
    return Call(
        method="POST", path=path, body=request.body(), key=key or uuid.uuid4().hex, timeout_seconds=START_SECONDS
    )


def executions(ref: str) -> Call[ExecutionInfos]:
    return Call(method="GET", path=box_path(ref, "executions"))


def execution(ref: str, execution_id: str) -> Call[ExecutionInfo]:
    return Call(method="GET", path=_execution_path(ref, execution_id))


def kill_execution(ref: str, execution_id: str) -> Call[None]:
    return Call(method="DELETE", path=_execution_path(ref, execution_id))


def signal_execution(ref: str, execution_id: str, signal: int) -> Call[None]:
    return Call(method="POST", path=_execution_path(ref, execution_id, "signal"), body={"signal": signal})


def resize_execution(ref: str, execution_id: str, cols: int, rows: int) -> Call[None]:
    body = {"cols": cols, "rows": rows}
    return Call(method="POST", path=_execution_path(ref, execution_id, "resize"), body=body)


def attach(ref: str, execution_id: str, since: int | None) -> Call[bytes]:
    params = {} if since is None else {"since": since}
    return Call(method="GET", path=_execution_path(ref, execution_id, "attach"), params=params)


# ---- files


def put_files(ref: str, path: str, overwrite: bool) -> Call[None]:
    params = {"path": path, "overwrite": "true" if overwrite else "false"}
    return Call(method="PUT", path=box_path(ref, "files"), params=params, timeout_seconds=START_SECONDS)


def get_files(ref: str, path: str, follow_symlinks: bool) -> Call[bytes]:
    params = {"path": path, "follow_symlinks": "true" if follow_symlinks else "false"}
    return Call(method="GET", path=box_path(ref, "files"), params=params)


# ---- the daemon


def events(since: int | None) -> Call[bytes]:
    return Call(method="GET", path="/v1/events", params={} if since is None else {"since": since})


def reconcile(dry_run: bool) -> Call[Any]:
    params = {"dry_run": "true"} if dry_run else {}
    return Call(method="POST", path="/v1/reconcile", params=params, timeout_seconds=START_SECONDS)


def metrics() -> Call[dict[str, Any]]:
    return Call(method="GET", path="/v1/metrics")


def config() -> Call[dict[str, Any]]:
    return Call(method="GET", path="/v1/config")


def me() -> Call[dict[str, Any]]:
    return Call(method="GET", path="/v1/me")


def health() -> Call[Any]:
    return Call(method="GET", path="/healthz", timeout_seconds=5.0)
