"""Plain frozen values of the domain: what a box is, what is wanted of it, what it does, and why.

No I/O and no clock here. `BoxID.mint` is the only creator of ids; `BoxID.parse` the only
way in for an id that came from outside. An id that arrives from inside a box is never used.
"""

from __future__ import annotations

import base64
import secrets
from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from boxlited.errors import InvalidArgument
from boxlited.texts import ID_PATTERN, NAME_PATTERN, Directory, Environment, GuestPath, HostPath, Name, Switch, Text

_ID_BYTES = 10
_ID_LENGTH = 16  # base32 of them


class BoxID(str):
    """The name of a box for its whole life: 16 characters of a-z2-7 (80 random bits)."""

    __slots__ = ()

    @classmethod
    def mint(cls) -> BoxID:
        """Create a new id. The only place where one comes into being."""
        return cls(base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower())

    @classmethod
    def parse(cls, text: str) -> BoxID:
        """Validate an id from outside. Never mints, never repairs.

        Raises InvalidArgument when the text is not exactly an id.
        """
        if not isinstance(text, str) or ID_PATTERN.fullmatch(text) is None or not text.isascii():
            raise InvalidArgument(
                f"{str(text)[:64]!r} is not a box id: expected {_ID_LENGTH} characters of a-z and 2-7"
            )
        return cls(text)

    @classmethod
    def is_valid(cls, text: str) -> bool:
        return ID_PATTERN.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Validate a box name. Raises InvalidArgument, naming the rule."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise InvalidArgument(
            f"box name {name[:64]!r} is not usable: 1 to 63 characters of letters, digits, '_', '.'"
            " or '-', beginning with a letter or digit"
        )
    if BoxID.is_valid(name):
        raise InvalidArgument(f"box name {name!r} looks like a box id; choose another name")
    return name


class BoxStatus(Enum):
    """What a box does now (actual)."""

    CONFIGURED = "configured"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    PAUSED = "paused"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Desired(Enum):
    """What is wanted of a box. Written before anyone acts on it."""

    RUNNING = "running"
    RESTARTED = "restarted"  # stopped, and then running: a restart by a user that is under way
    STOPPED = "stopped"
    REMOVED = "removed"


class StopCause(Enum):
    """Why a box is not running (reason)."""

    USER = "user"  # stop or kill through the API
    EXITED = "exited"  # the workload ended by itself
    CRASHED = "crashed"  # signal, panic, or an error of the engine
    OOM = "oom"  # the kernel's out-of-memory killer
    SHIM_KILLED = "shim_killed"  # the shim itself died by a signal, or exited, and left no exit file
    LOST = "lost"  # gone without any evidence
    HOST_REBOOTED = "host_rebooted"
    START_FAILED = "start_failed"
    DIRECTORY_MISSING = "directory_missing"
    AUTO_STOP = "auto_stop"
    DRAINED = "drained"  # the daemon was drained


class IdentityKind(Enum):
    """Result of comparing `shim.pid` with the live system."""

    VERIFIED = "verified"
    LEGACY = "legacy"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class RestartPolicyName(Enum):
    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the values that a client sends: an unknown key is an error that names it."""


Seconds = Annotated[int, Meta(ge=0, le=10 * 365 * 86400)]


class Outbound(Struct, frozen=True, kw_only=True):
    mode: Switch = "disabled"
    allow_net: tuple[Text, ...] = ()


class Inbound(Struct, frozen=True, kw_only=True):
    mode: Switch = "disabled"


class Network(Struct, frozen=True, kw_only=True):
    """Network of a box. `mode`/`allow_net` are the older flat form of `outbound`."""

    outbound: Outbound | None = None
    inbound: Inbound | None = None
    mode: Switch | None = None
    allow_net: tuple[Text, ...] | None = None

    @property
    def outbound_mode(self) -> str:
        if self.outbound is not None:
            return self.outbound.mode
        return self.mode or "disabled"


class Volume(Struct, frozen=True, kw_only=True):
    guest_path: GuestPath
    host_path: HostPath | None = None
    managed_volume: Text | None = None
    read_only: bool = False


class Capabilities(Struct, frozen=True, kw_only=True):
    add: tuple[Text, ...] = ()
    drop: tuple[Text, ...] = ()


class Advanced(Struct, frozen=True, kw_only=True):
    capabilities: Capabilities = Capabilities()


class Backoff(Struct, frozen=True, kw_only=True):
    """Delay before a restart: `initial_seconds` doubling up to `max_seconds`, with jitter."""

    initial_seconds: Annotated[float, Meta(gt=0, le=3600)] = 0.1
    max_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60.0


class Restart(Struct, frozen=True, kw_only=True):
    """`max_retries` None means without limit; the count resets after 10 s up."""

    policy: RestartPolicyName = RestartPolicyName.NO
    max_retries: Annotated[int, Meta(ge=0)] | None = None
    backoff: Backoff = Backoff()


class BoxSpec(Struct, frozen=True, kw_only=True):
    """What a client asks for: the body of `POST /v1/boxes`, and `spec` in `box.json`."""

    name: Name | None = None
    image: Text | None = None
    rootfs_path: HostPath | None = None
    cpus: Annotated[float, Meta(gt=0, le=4096)] | None = None
    memory_mib: Annotated[int, Meta(ge=4, le=64 * 1024 * 1024)] | None = None
    pids: Annotated[int, Meta(ge=1, le=4194304)] | None = None
    disk_size_gb: Annotated[int, Meta(ge=1)] | None = None
    working_dir: Directory | None = None
    env: Environment = {}
    entrypoint: tuple[Text, ...] | None = None
    cmd: tuple[Text, ...] | None = None
    user: Text | None = None
    volumes: tuple[Volume, ...] = ()
    network: Network | None = None
    detach: bool = True
    tty: bool = False
    labels: dict[Text, Text] = {}
    auto_stop: Seconds | None = None
    auto_delete: Seconds | None = None
    auto_resume: bool | None = None
    auto_remove: bool = False
    advanced: Advanced = Advanced()
    engine: Text = "sandbox"
    restart: Restart = Restart()
    stop_signal: Annotated[int, Meta(ge=1, le=31)] = 15

    @property
    def argv(self) -> tuple[str, ...]:
        """The command of the box, or () when it only waits for commands."""
        return (self.entrypoint or ()) + (self.cmd or ())


class ExecSpec(Struct, frozen=True, kw_only=True):
    """A command to run in a box beside its workload: the body of `POST …/exec`.

    `cols` and `rows` are the first size of its terminal, where it has one.
    """

    command: Annotated[Text, Meta(min_length=1, max_length=4096)]
    args: tuple[Text, ...] = ()
    env: Environment = {}
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=10 * 365 * 86400)] | None = None
    working_dir: Annotated[Text, Meta(min_length=1, max_length=4096)] | None = None
    user: Annotated[Text, Meta(min_length=1, max_length=256)] | None = None
    tty: bool = False
    cols: Annotated[int, Meta(ge=1, le=65535)] | None = None
    rows: Annotated[int, Meta(ge=1, le=65535)] | None = None


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the box table.

    Times ending in `_at` are wall clock, Unix seconds, for people only. Times ending in
    `_boottime` are CLOCK_BOOTTIME seconds of boot `boot_id`; all arithmetic uses them.
    `pid` is the shim's, a cache of `shim.pid`, and never signalled.
    """

    box_id: BoxID
    name: str
    spec: BoxSpec
    status: BoxStatus = BoxStatus.CONFIGURED
    desired: Desired = Desired.STOPPED
    created_at: float = 0.0
    updated_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    # evidence of the current run; all of it must agree with the live shim
    run_id: str | None = None
    pid: int | None = None
    boot_id: str | None = None
    pidfs_inode: int | None = None
    identity: IdentityKind = IdentityKind.ABSENT
    started_boottime: float | None = None
    ended_boottime: float | None = None
    used_boottime: float | None = None
    # why it is not running
    stop_cause: StopCause | None = None
    failure_reason: str | None = None
    exit_code: int | None = None
    exit_signal: str | None = None
    error_kind: str | None = None
    restart_count: int = 0
    not_applied: tuple[str, ...] = ()
    warning: str | None = None


class EventKind(Enum):
    """What an event says. The names are stable: clients match on them."""

    CREATED = "created"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ADOPTED = "adopted"
    RESTARTING = "restarting"
    GAVE_UP = "gave_up"
    REMOVED = "removed"
    QUARANTINED = "quarantined"
    RESET = "reset"
    SIGNALLED = "signalled"
    DAEMON_STARTED = "daemon_started"
    DAEMON_STOPPED = "daemon_stopped"
    DATABASE_REBUILT = "database_rebuilt"
    WARNING = "warning"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the durable event log. `seq` grows by one, across restarts of the daemon."""

    seq: int
    at: float
    kind: EventKind
    box_id: str | None = None
    name: str | None = None
    data: dict[str, Any] = {}


class EventDraft(msgspec.Struct, frozen=True, kw_only=True):
    """An event before the store gives it its number and time."""

    kind: EventKind
    box_id: str | None = None
    name: str | None = None
    data: dict[str, Any] = {}


def mint_run_id() -> str:
    """A new name for one lifecycle of a box: 32 hexadecimal digits."""
    return secrets.token_hex(16)
