"""The pure core: row x observation x request -> plan. The whole recovery table, as data.

Owns every decision about a box's state. Must not touch a clock, a file, a process, the
database or a log: the same input gives the same plan. Invariants: an identity that is
Unknown never leads to an action; a box is spawned only when its shim is proven Absent;
nothing is removed under a live shim.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from boxlited.errors import InvalidState
from boxlited.model import (
    Box,
    BoxStatus,
    Desired,
    IdentityKind,
    RestartPolicyName,
    StopCause,
)
from boxlited.supervisor.plans import ALIVE, NOTHING, ExitRun, ExitSeen, Observation, Plan, Request, Step

UNKNOWN_PASSES_BEFORE_SAYING_SO = 3
HEALTHY_AFTER_SECONDS = 10.0
OBEDIENT_SIGNALS = frozenset({"SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "SIGQUIT"})

LIVE_STATUS = frozenset({BoxStatus.RUNNING, BoxStatus.STOPPING, BoxStatus.PAUSED, BoxStatus.UNKNOWN})
ENDS_IT = frozenset({Request.STOP, Request.REMOVE, Request.FORCE_REMOVE})  # no policy acts against these
WANTS_A_RUN = frozenset({Desired.RUNNING, Desired.RESTARTED})
NO_SUCCESS = frozenset({StopCause.LOST, StopCause.HOST_REBOOTED})
ON_PURPOSE = frozenset({StopCause.USER, StopCause.AUTO_STOP, StopCause.DRAINED})


class ExecutionPlan(Enum):
    """How a box of a given status is brought to run."""

    SPAWN = "spawn"
    ATTACH = "attach"
    WAIT_FOR_STOP = "wait_for_stop"


def execution_plan(status: BoxStatus) -> ExecutionPlan:
    """The plan for every status. Raises InvalidState on Unknown instead of guessing."""
    match status:
        case BoxStatus.CONFIGURED | BoxStatus.STOPPED | BoxStatus.FAILED:
            return ExecutionPlan.SPAWN
        case BoxStatus.RUNNING | BoxStatus.PAUSED:
            return ExecutionPlan.ATTACH
        case BoxStatus.STOPPING:
            return ExecutionPlan.WAIT_FOR_STOP
        case _:
            raise InvalidState(
                "the state of the box is unknown: its shim could not be examined. Nothing is started"
                " while the old one may live; look at `boxctl inspect` and the daemon's log"
            )


def decide(box: Box, seen: Observation, request: Request = Request.RECONCILE) -> Plan:
    """The one place where a box's fate is decided. Total: every input has a plan."""
    if seen.identity is IdentityKind.UNKNOWN:
        return _decide_unknown(box, seen, request)
    if seen.alive:
        return _decide_alive(box, seen, request)
    return _decide_absent(box, seen, request)


def is_run_open(box: Box) -> bool:
    """Whether the row holds a run whose end is not accounted for yet."""
    return box.status in LIVE_STATUS or (box.run_id is not None and box.ended_at is None)


def wants_drain(box: Box) -> bool:
    """Whether a live shim of this row is one that somebody stopped: an orphan to be drained."""
    if box.desired is Desired.REMOVED or box.status is BoxStatus.STOPPING:
        return True
    if box.desired is Desired.RUNNING:
        return False
    if box.status in LIVE_STATUS:
        return True
    if box.desired is Desired.RESTARTED:  # the old run has ended: this is the new one
        return False
    return box.status is BoxStatus.STOPPED and box.stop_cause in ON_PURPOSE


def wanted_after_drain(box: Box, request: Request) -> Desired:
    """The intent that goes into the row before the first signal: a daemon killed after it goes on from there."""
    if box.desired is Desired.REMOVED:
        return Desired.REMOVED
    restarts = request is Request.STOP_TO_START or (box.desired is Desired.RESTARTED and request not in ENDS_IT)
    return Desired.RESTARTED if restarts else Desired.STOPPED


def _decide_unknown(box: Box, seen: Observation, request: Request) -> Plan:
    if request is not Request.RECONCILE and request is not Request.RESTART:
        if seen.unproven:
            return Plan(
                refuse=f"the shim of box {box.name} lives and could not prove itself on its control channel. Nothing is"
                " done with it before it does (each exec is a new attempt), or has ended"
            )
        return Plan(
            refuse=f"the shim of box {box.name} could not be examined (errno {seen.errno}); it may be alive."
            " Nothing was done: retry when the cause has passed"
        )
    passes = seen.unknown_passes
    is_due = seen.unproven or passes >= UNKNOWN_PASSES_BEFORE_SAYING_SO
    if is_due and is_run_open(box) and box.status is not BoxStatus.UNKNOWN:
        why = f"be examined in {passes} passes (errno {seen.errno})"
        return Plan(
            steps=(Step.SAY_UNKNOWN,),
            status=BoxStatus.UNKNOWN,
            warning=f"shim could not {'prove itself on its control channel' if seen.unproven else why}",
        )
    return NOTHING


def _decide_alive(box: Box, seen: Observation, request: Request) -> Plan:
    if box.desired is Desired.REMOVED or request is Request.FORCE_REMOVE:
        return Plan(steps=(Step.DRAIN_NOW,), again=True)
    if request in (Request.STOP, Request.STOP_TO_START) or wants_drain(box):
        return Plan(steps=(Step.DRAIN,), again=True)
    if request is Request.REMOVE:
        return Plan(refuse=f"box {box.name} is running: stop it first, or remove it with force")
    steps: list[Step] = []
    warning = None
    if seen.exit is not ExitSeen.NONE and seen.exit_run is not ExitRun.THIS:
        steps.append(Step.STASH_EXIT)
        warning = "a stale exit file lay beside a live shim; it is now exit.previous"
    if seen.pid_file_wrong:
        steps.append(Step.RESTORE_PID_FILE)
        warning = "shim.pid was removed or changed beside a live shim; it is written anew"
    if _adoption_due(box, seen):
        steps.append(Step.ADOPT)
        if seen.identity is IdentityKind.LEGACY:
            warning = "shim.pid has no fingerprint (legacy): restart the box to upgrade it"
    return Plan(steps=tuple(steps), status=BoxStatus.RUNNING if steps else None, warning=warning)


def _adoption_due(box: Box, seen: Observation) -> bool:
    return (
        box.status not in (BoxStatus.RUNNING, BoxStatus.PAUSED)
        or box.desired is not Desired.RUNNING
        or box.pid != seen.pid
        or box.identity is not seen.identity
    )


def _decide_absent(box: Box, seen: Observation, request: Request) -> Plan:
    open_run = is_run_open(box)
    if open_run and seen.evidence_pending and seen.exit is ExitSeen.NONE and not seen.boot_changed:
        return Plan(steps=(Step.AWAIT_EVIDENCE,), again=True)
    if seen.leftovers:
        return Plan(steps=(Step.KILL_LEFTOVERS,), again=True)
    if box.desired is Desired.REMOVED:
        return Plan(steps=(Step.REMOVE,))
    if open_run:
        return _settle(box, seen, request)
    if not seen.directory:
        return _directory_missing(box, request)
    if seen.exit is ExitSeen.CRASH and seen.exit_run is ExitRun.OTHER and not _asks_removal(request):
        rest = _closed(box, seen, request)
        return replace(rest, steps=(Step.STASH_EXIT, *rest.steps))
    if seen.exit is ExitSeen.CRASH and seen.exit_run is ExitRun.UNSAID and not _is_crash_told(box):
        return Plan(
            steps=_with_pid_file((Step.SETTLE,), seen),
            status=BoxStatus.FAILED,
            cause=StopCause.CRASHED,
            again=True,
        )
    return _closed(box, seen, request)


def _is_crash_told(box: Box) -> bool:
    """Whether the row has told an end as a failure: it may have been reset since, and its file lies there still."""
    return box.status is BoxStatus.FAILED or box.stop_cause is StopCause.CRASHED


def _asks_removal(request: Request) -> bool:
    return request in (Request.REMOVE, Request.FORCE_REMOVE)


def _with_pid_file(steps: tuple[Step, ...], seen: Observation) -> tuple[Step, ...]:
    return (*steps, Step.REMOVE_PID_FILE) if seen.pid_file else steps


def _directory_missing(box: Box, request: Request) -> Plan:
    if _asks_removal(request):
        return Plan(steps=(Step.REMOVE,))
    if request in (Request.START, Request.ATTACH):
        return Plan(refuse=f"the directory of box {box.name} is missing: remove the box and create it anew")
    if box.stop_cause is StopCause.DIRECTORY_MISSING:
        return Plan(steps=(Step.WANT_STOPPED,)) if box.desired in WANTS_A_RUN else NOTHING
    return Plan(
        steps=(Step.SETTLE, Step.WANT_STOPPED),
        status=BoxStatus.FAILED,
        cause=StopCause.DIRECTORY_MISSING,
    )


def _closed(box: Box, seen: Observation, request: Request) -> Plan:
    """No shim and every run accounted for: only intent is left to act on."""
    cleanup = (Step.REMOVE_PID_FILE,) if seen.pid_file else ()
    match request:
        case Request.REMOVE | Request.FORCE_REMOVE:
            return Plan(steps=(Step.REMOVE,))
        case Request.START:
            return Plan(steps=(*cleanup, Step.SPAWN), restart_count=0)
        case Request.ATTACH:
            return Plan(steps=cleanup, refuse=_why_not_running(box))
        case Request.STOP:
            wanted = (Step.WANT_STOPPED,) if box.desired in WANTS_A_RUN else ()
            return Plan(steps=(*cleanup, *wanted))
        case Request.STOP_TO_START:
            return Plan(steps=cleanup)
        case Request.RESTART:
            if box.desired not in WANTS_A_RUN:
                return Plan(steps=cleanup)
            count = 0 if box.desired is Desired.RESTARTED else box.restart_count + 1
            return Plan(steps=(*cleanup, Step.SPAWN), restart_count=count)
        case Request.RECONCILE:
            return _closed_reconcile(box, cleanup)


def _closed_reconcile(box: Box, cleanup: tuple[Step, ...]) -> Plan:
    if box.desired in WANTS_A_RUN:
        if box.desired is Desired.RESTARTED or wants_restart(box, box.status, box.exit_code, box.stop_cause):
            return Plan(steps=(*cleanup, Step.SCHEDULE_RESTART))
        return Plan(steps=(*cleanup, Step.WANT_STOPPED))
    ended = box.status in (BoxStatus.STOPPED, BoxStatus.FAILED)
    if ended and box.spec.auto_remove and box.stop_cause is not StopCause.DIRECTORY_MISSING:
        return Plan(steps=(Step.REMOVE,))
    return Plan(steps=cleanup)


def _why_not_running(box: Box) -> str:
    if box.failure_reason:
        return f"box {box.name} is {box.status.value}: {box.failure_reason}"
    return f"box {box.name} is {box.status.value}; start it first"


def _settle(box: Box, seen: Observation, request: Request) -> Plan:
    """The run has ended: say how, and what follows."""
    status, cause = classify_end(box, seen)
    if status is None:
        return _interrupted_start(box, seen, request)
    steps: list[Step] = [Step.SETTLE]
    if cause in ON_PURPOSE and seen.exit is ExitSeen.CRASH and seen.exit_run is not ExitRun.THIS:
        steps.append(Step.STASH_EXIT)
    if seen.pid_file:
        steps.append(Step.REMOVE_PID_FILE)
    count = 0 if (seen.ran_seconds or 0.0) >= HEALTHY_AFTER_SECONDS else box.restart_count
    if cause is StopCause.DIRECTORY_MISSING or request in ENDS_IT:
        steps.extend((Step.WANT_STOPPED,) if box.desired in WANTS_A_RUN else ())
    elif request not in (Request.START, Request.STOP_TO_START):
        steps.extend(_follow_up(box, status, seen.exit_code, cause, count))
    return Plan(
        steps=tuple(steps),
        status=status,
        cause=cause,
        restart_count=count,
        warning=_warning_of_end(seen, cause),
        again=request is not Request.RECONCILE or (box.spec.auto_remove and Step.SCHEDULE_RESTART not in steps),
    )


def _warning_of_end(seen: Observation, cause: StopCause | None) -> str | None:
    if cause is StopCause.LOST and seen.shim_code is not None:
        return (
            f"ended without an exit file; its shim exited with code {seen.shim_code}: the disk may be full or failing"
        )
    if cause is StopCause.LOST:
        return "ended without an exit file or any other record"
    if seen.oom and cause is not StopCause.OOM:
        return "the kernel's out-of-memory killer struck within the box: it used more memory than its limit"
    return None


def _interrupted_start(box: Box, seen: Observation, request: Request) -> Plan:
    """The intent to start was written and nothing was forked: as if it had not been asked.

    It uses up no retry. The exit file of the run before would belong to nobody once the row names no run, and be
    taken for a crash.
    """
    steps = _with_pid_file((Step.CLOSE_RUN,), seen)
    if seen.exit is ExitSeen.CRASH and seen.exit_run is ExitRun.OTHER and box.status is not BoxStatus.FAILED:
        steps = (Step.STASH_EXIT, *steps)
    count = max(box.restart_count - 1, 0)
    if request is Request.RECONCILE:
        steps = (*steps, *_follow_up(box, box.status, box.exit_code, box.stop_cause, count))
    return Plan(
        steps=steps,
        restart_count=count,
        warning="a start was interrupted before anything was spawned",
        again=request is not Request.RECONCILE,
    )


def decide_start_failed(box: Box, seen: Observation, *, by_policy: bool) -> Plan:
    """A start did not succeed. By the restart policy's timer: the policy goes on; by a user: it ends.

    A restart by a user that was cut goes on by the timer, and is the user's all the same.
    """
    if seen.alive or seen.identity is IdentityKind.UNKNOWN:
        return NOTHING
    steps: tuple[Step, ...] = _with_pid_file((Step.SETTLE,), seen)
    follow: tuple[Step, ...] = (Step.WANT_STOPPED,)
    if by_policy and box.desired is not Desired.RESTARTED:
        follow = _follow_up(box, BoxStatus.FAILED, None, StopCause.START_FAILED, box.restart_count)
    return Plan(steps=(*steps, *follow), status=BoxStatus.FAILED, cause=StopCause.START_FAILED)


def _follow_up(
    box: Box, status: BoxStatus, exit_code: int | None, cause: StopCause | None, count: int
) -> tuple[Step, ...]:
    if box.desired is Desired.RESTARTED:
        return (Step.SCHEDULE_RESTART,)
    if box.desired is not Desired.RUNNING:
        return ()
    if not wants_restart(box, status, exit_code, cause):
        return (Step.WANT_STOPPED,)
    limit = box.spec.restart.max_retries
    if limit is not None and count >= limit:
        return (Step.WANT_STOPPED, Step.GIVE_UP)
    return (Step.SCHEDULE_RESTART,)


def wants_restart(box: Box, status: BoxStatus, exit_code: int | None, cause: StopCause | None) -> bool:
    """Whether the policy wants another run after an end like this one (limits aside).

    Of an end that nobody knows, and of one that a reboot brought, nobody may say that it was a success.
    """
    match box.spec.restart.policy:
        case RestartPolicyName.ALWAYS:
            return True
        case RestartPolicyName.ON_FAILURE:
            return status is BoxStatus.FAILED or bool(exit_code) or cause in NO_SUCCESS
        case RestartPolicyName.NO:
            return False


def classify_end(box: Box, seen: Observation) -> tuple[BoxStatus | None, StopCause | None]:
    """How a run ended. (None, None): it never began."""
    stopping = box.desired not in WANTS_A_RUN or (box.desired is Desired.RESTARTED and box.status in LIVE_STATUS)
    purpose = box.stop_cause if box.stop_cause in ON_PURPOSE else StopCause.USER
    mine = seen.exit_run is not ExitRun.OTHER
    if seen.exit is ExitSeen.CRASH and mine:
        if stopping and seen.exit_signal in OBEDIENT_SIGNALS:
            return BoxStatus.STOPPED, purpose
        if seen.boot_changed and seen.exit_signal in OBEDIENT_SIGNALS:  # what a shutdown ends everything with
            return BoxStatus.STOPPED, StopCause.HOST_REBOOTED
        return BoxStatus.FAILED, StopCause.OOM if seen.oom else StopCause.CRASHED
    if seen.exit is ExitSeen.EXITED and mine:
        return BoxStatus.STOPPED, purpose if stopping else StopCause.EXITED
    if not seen.directory:
        return BoxStatus.FAILED, StopCause.DIRECTORY_MISSING
    if seen.exit is ExitSeen.UNREADABLE:
        return BoxStatus.FAILED, StopCause.CRASHED
    if seen.boot_changed:
        return BoxStatus.STOPPED, purpose if stopping else StopCause.HOST_REBOOTED
    if stopping:
        return BoxStatus.STOPPED, purpose
    if seen.oom:
        return BoxStatus.FAILED, StopCause.OOM
    if seen.violent:
        return BoxStatus.FAILED, StopCause.SHIM_KILLED
    if box.status not in LIVE_STATUS and not seen.pid_file:
        return None, None
    return BoxStatus.STOPPED, StopCause.LOST


class OrphanPlan(Enum):
    """What to do with a directory in boxes/ that no row knows."""

    LEAVE = "leave"
    ADOPT = "adopt"  # a live shim: the row is rebuilt from box.json
    REBUILD = "rebuild"  # the database was lost: the row is rebuilt, then reconciled
    QUARANTINE = "quarantine"


def decide_orphan(identity: IdentityKind, *, valid_id: bool, valid_config: bool, database_lost: bool) -> OrphanPlan:
    """Never deletes, and never touches a directory whose shim is alive or cannot be examined."""
    if identity is IdentityKind.UNKNOWN:
        return OrphanPlan.LEAVE
    if identity in ALIVE:
        return OrphanPlan.ADOPT if valid_id else OrphanPlan.LEAVE
    if database_lost and valid_id and valid_config:
        return OrphanPlan.REBUILD
    return OrphanPlan.QUARANTINE
