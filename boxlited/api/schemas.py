"""The JSON of the API: what goes out, and the small bodies that come in.

Owns the field names of the contract and nothing else. `Box` here is the view of `model.Box`; the
contract wants numbers where the model may have none, see `box_view`.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from boxlited import model
from boxlited.api.services import HostSize
from boxlited.model import BoxStatus, Desired, EventKind, IdentityKind, StopCause
from boxlited.texts import Text, described

SIGNAL_NAMES = [name for item in signal.Signals if item < 32 for name in (item.name, item.name.removeprefix("SIG"))]
Size = Annotated[int, Meta(ge=1, le=65535)]
Timeout = Annotated[float, Meta(ge=0, le=3600)]
LATEST = 253402300799  # the last second that has a date


class Traffic(msgspec.Struct, frozen=True):
    mode: Literal["enabled", "disabled"]
    allow_net: list[str] = []


class NetworkView(msgspec.Struct, frozen=True):
    """What a box may reach, and what may reach it. An engine of somebody else may understand more."""

    outbound: Traffic
    inbound: Traffic


MAX_CPUS = 255  # an SDK reads `cpus` into eight bits; one box beyond them would cost it the whole list


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One box. `cpus` is a whole number from 1 to 255; both sizes are the host's for a box without limits."""

    box_id: str
    name: str
    status: BoxStatus
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    pid: int | None
    image: str
    cpus: Annotated[int, Meta(ge=1, le=MAX_CPUS)]
    memory_mib: int
    labels: dict[str, str]
    network: NetworkView
    exit_code: int | None
    auto_stop: int
    auto_delete: int
    auto_resume: bool
    desired: Desired
    engine: str
    identity: IdentityKind
    stop_cause: StopCause | None
    failure_reason: str | None
    restart_count: int
    run_id: str | None
    ended_at: datetime | None
    exit_signal: str | None
    error_kind: str | None
    warning: str | None
    not_applied: list[str]


class BoxPage(msgspec.Struct, frozen=True):
    boxes: list[Box]
    next_page_token: str | None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    at: datetime
    kind: EventKind
    box_id: str | None
    name: str | None
    data: dict[str, Any]


class Crash(msgspec.Struct, frozen=True):
    user_message: str
    debug_info: str
    error_kind: str | None


class BoxMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Resource usage of one box, and its counters since the daemon began. None where it cannot be known."""

    box_id: str
    name: str
    cpu_percent: float
    cpu_seconds: float
    memory_bytes: int
    memory_limit_bytes: int | None
    processes: int
    restart_count: int
    commands_executed_total: int
    exec_errors_total: int


class RuntimeMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the daemon began, and what there is now. More keys may come."""

    boxes_created_total: int
    boxes_started_total: int
    boxes_stopped_total: int
    boxes_failed_total: int
    boxes_removed_total: int
    boxes_running: int
    boxes_by_status: dict[str, int]
    events_last_seq: int


class ReconcileReport(msgspec.Struct, frozen=True):
    dry_run: bool
    boxes: list[dict[str, Any]]


class Me(msgspec.Struct, frozen=True, kw_only=True):
    sub: str
    principal_type: Literal["user", "service_account"]
    scopes: list[str]
    path_prefix: str | None = None


class Health(msgspec.Struct, frozen=True):
    status: str


class Defaults(msgspec.Struct, frozen=True):
    """What a create without the field gets. No limit shows as the size of the host."""

    cpus: int
    memory_mib: int
    image: str
    engine: str
    stop_timeout_seconds: float
    auto_stop: int
    auto_delete: int


class ServerConfig(msgspec.Struct, frozen=True):
    version: str
    defaults: Defaults
    capabilities: dict[str, Any]
    home: str | None = None  # null where a token is asked for: this is read without one


class Secret(model.Struct, frozen=True, kw_only=True):
    name: Text
    value: Text
    hosts: tuple[Text, ...] = ()
    placeholder: Text | None = None


class CreateBody(model.BoxSpec, frozen=True, kw_only=True):
    """What a box is to be; `image` and `rootfs_path` exclude each other. `secrets` of the contract are refused."""

    secrets: tuple[Secret, ...] = ()

    def spec(self) -> model.BoxSpec:
        return model.BoxSpec(**{name: getattr(self, name) for name in model.BoxSpec.__struct_fields__})


class StopBody(model.Struct, frozen=True):
    """Without `timeout_seconds`: as the daemon is configured, see `stop_timeout_seconds` of /v1/config."""

    timeout_seconds: Timeout | None = None


class WaitBody(model.Struct, frozen=True):
    timeout_seconds: Timeout | None = None


class KillBody(model.Struct, frozen=True):
    """A number from 1 to 31, or a name such as SIGTERM or TERM."""

    signal: Annotated[int, described(minimum=1, maximum=31)] | Annotated[str, described(enum=SIGNAL_NAMES)] = 9


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One command beside a box's workload. `exit_code` after signal N is 128 + N."""

    execution_id: str
    command: str
    status: Literal["running", "completed", "killed", "timed_out"]
    attached: bool
    tty: bool
    exit_code: int | None
    started_at: datetime
    duration_ms: int | None
    error_message: str | None


class ExecReply(msgspec.Struct, frozen=True):
    execution_id: str


class SignalBody(model.Struct, frozen=True):
    """HUP INT QUIT ABRT USR1 USR2 TERM WINCH: what kills a command and forgets it is DELETE."""

    signal: Annotated[int, described(enum=[1, 2, 3, 6, 10, 12, 15, 28])]


class ResizeBody(model.Struct, frozen=True):
    cols: Size
    rows: Size


class NoBody(model.Struct, frozen=True):
    """A body that may be empty or `{}`."""


def moment(seconds: float) -> datetime:
    """The nearest date that there is: one strange row or `box.json` must not cost the list of all boxes."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), LATEST), UTC)


UNRECORDED = (
    "its newest state is not on the disk, which takes no writes; the write is retried."
    " Free space: if the daemon is killed before, the last change is forgotten"
)


def box_view(box: model.Box, host: HostSize, unrecorded: Collection[str] = ()) -> Box:
    """`unrecorded`: ids of boxes whose newest state only memory has, which their warning says first."""
    spec = box.spec
    warnings = (UNRECORDED if box.box_id in unrecorded else None, box.warning)
    return Box(
        box_id=box.box_id,
        name=box.name,
        status=box.status,
        created_at=moment(box.created_at),
        updated_at=moment(box.updated_at),
        started_at=None if box.started_at is None else moment(box.started_at),
        pid=box.pid,
        image=spec.image or spec.rootfs_path or "host",
        cpus=min(MAX_CPUS, host.cpus if spec.cpus is None else math.ceil(spec.cpus)),
        memory_mib=spec.memory_mib or host.memory_mib,
        labels=spec.labels,
        network=network_view(spec.network or model.Network()),
        exit_code=box.exit_code,
        auto_stop=spec.auto_stop or 0,
        auto_delete=spec.auto_delete or 0,
        auto_resume=spec.auto_resume is not False,
        desired=box.desired,
        engine=spec.engine,
        identity=box.identity,
        stop_cause=box.stop_cause,
        failure_reason=box.failure_reason,
        restart_count=box.restart_count,
        run_id=box.run_id,
        ended_at=None if box.ended_at is None else moment(box.ended_at),
        exit_signal=box.exit_signal,
        error_kind=box.error_kind,
        warning="; ".join(filter(None, warnings)) or None,
        not_applied=list(box.not_applied),
    )


def network_view(network: model.Network) -> NetworkView:
    outbound, inbound = network.outbound or model.Outbound(), network.inbound or model.Inbound()
    allowed = list(outbound.allow_net or network.allow_net or ())
    return NetworkView(_traffic(network.outbound_mode, allowed), _traffic(inbound.mode, []))


def _traffic(mode: str, allow_net: list[str]) -> Traffic:
    return Traffic("enabled" if mode == "enabled" else "disabled", allow_net)


def event_view(event: model.Event) -> Event:
    return Event(
        seq=event.seq,
        at=moment(event.at),
        kind=event.kind,
        box_id=event.box_id,
        name=event.name,
        data=event.data,
    )


def execution_view(execution: dict[str, Any]) -> Execution:
    """What a shim says of an execution. Raises ValidationError for what is none."""
    return msgspec.convert({**execution, "started_at": moment(execution["started_at"])}, Execution)
