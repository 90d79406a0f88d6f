"""The shapes of the daemon's replies, as TypedDicts, and what is made of a stream. No code.

Every field may be missing (`total=False`): a client works with an older and with a newer daemon.
Times are Unix seconds, for people.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict


class BoxInfo(TypedDict, total=False):
    """One box, as `GET /v1/boxes/{id}` tells it."""

    box_id: str
    name: str
    status: str
    created_at: float | str | None
    updated_at: float | str | None
    started_at: float | str | None
    ended_at: float | str | None
    pid: int | None
    image: str | None
    cpus: float | None
    memory_mib: int | None
    labels: dict[str, str]
    exit_code: int | None
    exit_signal: str | None
    auto_stop: int | None
    auto_delete: int | None
    auto_resume: bool | None
    desired: str
    engine: str
    identity: str
    stop_cause: str | None
    failure_reason: str | None
    error_kind: str | None
    restart_count: int
    run_id: str | None
    warning: str | None
    not_applied: list[str]


class EventInfo(TypedDict, total=False):
    """One event; `seq` grows by one, across restarts of the daemon."""

    seq: int
    at: float | str
    kind: str
    box_id: str | None
    name: str | None
    data: dict[str, Any]


class CrashInfo(TypedDict, total=False):
    user_message: str
    debug_info: str
    error_kind: str | None


class ReconcileEntry(TypedDict, total=False):
    """What one pass saw, decided and did for one box."""

    box_id: str
    name: str | None
    status: str
    identity: str
    action: str
    warning: str | None


class ExecutionInfo(TypedDict, total=False):
    """A command that was started in a box. Right after its start only `execution_id` is told."""

    execution_id: str
    command: str
    status: str
    attached: bool
    tty: bool
    exit_code: int | None
    started_at: str
    duration_ms: int | None
    error_message: str | None


class Output(NamedTuple):
    """A piece of what a command wrote, on channel STDOUT or STDERR."""

    channel: int
    data: bytes


class Completed(NamedTuple):
    """A command that has ended, and all that it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


STDOUT, STDERR = 1, 2

Boxes = list[BoxInfo]
ExecutionInfos = list[ExecutionInfo]
ReconcileEntries = list[ReconcileEntry]
