"""The shapes of the daemon's replies, as TypedDicts. No code.

Every field may be missing (`total=False`): a client works with an older and with a newer daemon.
Times are Unix seconds, for people.
"""

from __future__ import annotations

from typing import Any, TypedDict


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


Boxes = list[BoxInfo]
ReconcileEntries = list[ReconcileEntry]
