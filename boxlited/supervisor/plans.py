"""What `decide` reads and what it answers: requests, observations, steps, plans. Plain frozen values.

No decisions here, and no I/O: facts come from `observe`, decisions from `decide`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from boxlited.model import BoxStatus, IdentityKind, StopCause

ALIVE = frozenset({IdentityKind.VERIFIED, IdentityKind.LEGACY})


class Request(Enum):
    """Who asks: the reconcile loop (recovery, a fired pidfd, the period) or a command."""

    RECONCILE = "reconcile"
    START = "start"
    RESTART = "restart"  # the restart policy's timer
    STOP = "stop"
    STOP_TO_START = "stop_to_start"  # the first half of a restart by a user; START is the other
    REMOVE = "remove"
    FORCE_REMOVE = "force_remove"
    ATTACH = "attach"


class ExitSeen(Enum):
    """What lies in the active exit slot."""

    NONE = "none"
    CRASH = "crash"  # signal, panic or error
    EXITED = "exited"  # the workload ended by itself
    UNREADABLE = "unreadable"  # something is there that we refuse to read


class ExitRun(Enum):
    """Whose exit file it is: this run's, another run's, or one that does not say (seed format)."""

    THIS = "this"
    OTHER = "other"
    UNSAID = "unsaid"


@dataclass(frozen=True, slots=True)
class Observation:
    """What the world looks like for one box at one moment. Facts only, no decisions."""

    identity: IdentityKind
    pid: int | None = None
    errno: int | None = None
    boot_changed: bool = False
    directory: bool = True
    pid_file: bool = False
    pid_file_wrong: bool = False  # a shim that we hold lives, and its pid file does not name it
    exit: ExitSeen = ExitSeen.NONE
    exit_run: ExitRun = ExitRun.THIS
    exit_signal: str | None = None
    exit_code: int | None = None
    shim_signal: str | None = None  # how the shim itself ended, when we saw it
    shim_code: int | None = None
    oom: bool = False
    leftovers: bool = False  # processes remain in the box's cgroup without a shim
    ran_seconds: float | None = None
    evidence_pending: bool = False  # the death is fresh: its exit file may still arrive
    unknown_passes: int = 0
    unproven: bool = False  # the shim lives and could not show that it knows its run's key

    @property
    def alive(self) -> bool:
        return self.identity in ALIVE

    @property
    def violent(self) -> bool:
        return self.shim_signal is not None or bool(self.shim_code)


class Step(Enum):
    """What `apply` does, in this order within one plan."""

    STASH_EXIT = "stash_exit"
    KILL_LEFTOVERS = "kill_leftovers"
    DRAIN = "drain"
    DRAIN_NOW = "drain_now"
    RESTORE_PID_FILE = "restore_pid_file"
    ADOPT = "adopt"
    SETTLE = "settle"
    CLOSE_RUN = "close_run"
    SAY_UNKNOWN = "say_unknown"
    REMOVE_PID_FILE = "remove_pid_file"
    AWAIT_EVIDENCE = "await_evidence"
    WANT_STOPPED = "want_stopped"
    SCHEDULE_RESTART = "schedule_restart"
    GIVE_UP = "give_up"
    SPAWN = "spawn"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `again`: observe and decide anew afterwards, the request is not met yet."""

    steps: tuple[Step, ...] = ()
    status: BoxStatus | None = None
    cause: StopCause | None = None
    restart_count: int | None = None
    warning: str | None = None
    refuse: str | None = None
    again: bool = False

    @property
    def action(self) -> str:
        if self.refuse is not None:
            return "refuse"
        return "+".join(step.value for step in self.steps) or "none"


NOTHING = Plan()
