"""The recovery table, over the whole cross product of row x observation x request."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import boxlited.supervisor.decide as module
from boxlited.errors import InvalidState
from boxlited.model import (
    Box,
    BoxID,
    BoxSpec,
    BoxStatus,
    Desired,
    IdentityKind,
    Restart,
    RestartPolicyName,
    StopCause,
)
from boxlited.supervisor.decide import (
    LIVE_STATUS,
    ExecutionPlan,
    OrphanPlan,
    decide,
    decide_orphan,
    decide_start_failed,
    execution_plan,
    wants_drain,
)
from boxlited.supervisor.plans import ExitRun, ExitSeen, Observation, Plan, Request, Step

ACTS_ON_PROCESSES = {Step.DRAIN, Step.DRAIN_NOW, Step.KILL_LEFTOVERS, Step.SPAWN, Step.REMOVE}
BOX_ID = BoxID("a" * 16)


def box(
    status: BoxStatus = BoxStatus.RUNNING,
    desired: Desired = Desired.RUNNING,
    policy: RestartPolicyName = RestartPolicyName.NO,
    *,
    cause: StopCause | None = None,
    run_open: bool | None = None,
    pid: int | None = 100,
    **spec: object,
) -> Box:
    is_open = status in LIVE_STATUS if run_open is None else run_open
    spec = {"restart": Restart(policy=policy), **spec}
    return Box(
        box_id=BOX_ID,
        name="web",
        spec=BoxSpec(**spec),  # type: ignore[arg-type]
        status=status,
        desired=desired,
        stop_cause=cause,
        run_id="r" if is_open else None,
        pid=pid,
        identity=IdentityKind.VERIFIED,
    )


def rows() -> Iterator[Box]:
    policies = (RestartPolicyName.NO, RestartPolicyName.ALWAYS)
    causes = (None, StopCause.USER)
    for status, desired, policy, cause, run_open, auto_remove in itertools.product(
        BoxStatus, Desired, policies, causes, (True, False), (True, False)
    ):
        yield box(status, desired, policy, cause=cause, run_open=run_open, auto_remove=auto_remove)


def observations() -> Iterator[Observation]:
    """Every distinct one: what cannot be seen beside a live or unknown shim is left out there."""
    yield Observation(IdentityKind.UNKNOWN, errno=24, unknown_passes=2)
    yield Observation(IdentityKind.UNKNOWN, errno=24, unknown_passes=3)
    for exit_seen, exit_run in itertools.product(ExitSeen, ExitRun):
        signal = "SIGABRT" if exit_seen is ExitSeen.CRASH else None
        for kind in (IdentityKind.VERIFIED, IdentityKind.LEGACY):
            yield Observation(kind, pid=100, pid_file=True, exit=exit_seen, exit_run=exit_run, exit_signal=signal)
        yield Observation(IdentityKind.VERIFIED, pid=100, pid_file_wrong=True, exit=exit_seen, exit_run=exit_run)
        for violence in ((None, False), ("SIGKILL", False), ("SIGKILL", True)):
            for boot, directory, pid_file, pending, leftovers in itertools.product((False, True), repeat=5):
                yield Observation(
                    IdentityKind.ABSENT,
                    boot_changed=boot,
                    directory=directory,
                    pid_file=pid_file,
                    exit=exit_seen,
                    exit_run=exit_run,
                    exit_signal=signal,
                    shim_signal=violence[0],
                    oom=violence[1],
                    leftovers=leftovers,
                    evidence_pending=pending,
                )


@pytest.mark.parametrize("request_", Request)
def test_every_pair_has_a_plan_that_keeps_the_invariants(request_: Request) -> None:
    all_rows = list(rows())
    count = 0
    for seen in observations():
        for row in all_rows:
            plan = decide(row, seen, request_)
            check_invariants(row, seen, request_, plan)
            count += 1
    assert count == len(all_rows) * 1190


def check_invariants(row: Box, seen: Observation, request: Request, plan: Plan) -> None:
    steps = plan.steps  # a tuple: to hash the members of an enumeration takes longer than to compare a few
    if seen.identity is IdentityKind.UNKNOWN:
        assert not ACTS_ON_PROCESSES.intersection(steps)
    if Step.RESTORE_PID_FILE in steps:
        assert seen.pid_file_wrong
    if Step.SPAWN in steps:
        assert seen.identity is IdentityKind.ABSENT
        assert request in (Request.START, Request.RESTART)
        assert not seen.leftovers
    if Step.REMOVE in steps:
        assert seen.identity is IdentityKind.ABSENT
        assert not seen.leftovers
    if Step.DRAIN in steps or Step.DRAIN_NOW in steps:
        assert seen.alive
    if request is Request.STOP:
        assert Step.SPAWN not in steps
    if Step.SETTLE in steps:
        assert seen.identity is IdentityKind.ABSENT
        assert plan.status in (BoxStatus.STOPPED, BoxStatus.FAILED)
        assert plan.cause is not None
    if plan.refuse is not None:
        assert not plan.again


def settled(row: Box, plan: Plan) -> tuple[BoxStatus | None, StopCause | None]:
    assert Step.SETTLE in plan.steps
    return plan.status, plan.cause


ABSENT = IdentityKind.ABSENT
CRASH = Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGABRT", pid_file=True)


@pytest.mark.parametrize(
    ("row", "seen", "status", "cause"),
    [
        (box(), CRASH, BoxStatus.FAILED, StopCause.CRASHED),
        (box(), Observation(ABSENT, exit=ExitSeen.EXITED, exit_code=0), BoxStatus.STOPPED, StopCause.EXITED),
        (box(), Observation(ABSENT, exit=ExitSeen.EXITED, exit_code=3), BoxStatus.STOPPED, StopCause.EXITED),
        (box(), Observation(ABSENT), BoxStatus.STOPPED, StopCause.LOST),
        (box(), Observation(ABSENT, shim_signal="SIGKILL"), BoxStatus.FAILED, StopCause.SHIM_KILLED),
        (box(), Observation(ABSENT, oom=True, shim_signal="SIGKILL"), BoxStatus.FAILED, StopCause.OOM),
        (box(), Observation(ABSENT, boot_changed=True), BoxStatus.STOPPED, StopCause.HOST_REBOOTED),
        (
            box(),
            Observation(ABSENT, boot_changed=True, exit=ExitSeen.CRASH, exit_signal="SIGTERM"),
            BoxStatus.STOPPED,
            StopCause.HOST_REBOOTED,
        ),
        (
            box(),
            Observation(ABSENT, boot_changed=True, exit=ExitSeen.CRASH, exit_signal="SIGABRT"),
            BoxStatus.FAILED,
            StopCause.CRASHED,
        ),
        (box(), Observation(ABSENT, exit=ExitSeen.UNREADABLE), BoxStatus.FAILED, StopCause.CRASHED),
        (box(), Observation(ABSENT, directory=False), BoxStatus.FAILED, StopCause.DIRECTORY_MISSING),
        (
            box(),
            Observation(ABSENT, exit=ExitSeen.CRASH, exit_run=ExitRun.OTHER, exit_signal="SIGABRT"),
            BoxStatus.STOPPED,
            StopCause.LOST,
        ),
        (
            box(BoxStatus.STOPPING, Desired.STOPPED, cause=StopCause.USER),
            Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGTERM"),
            BoxStatus.STOPPED,
            StopCause.USER,
        ),
        (
            box(BoxStatus.STOPPING, Desired.STOPPED, cause=StopCause.DRAINED),
            Observation(ABSENT, shim_signal="SIGKILL"),
            BoxStatus.STOPPED,
            StopCause.DRAINED,
        ),
        (
            box(BoxStatus.STOPPING, Desired.STOPPED, cause=StopCause.USER),
            Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGSEGV"),
            BoxStatus.FAILED,
            StopCause.CRASHED,
        ),
    ],
)
def test_the_end_of_a_run_is_classified(row: Box, seen: Observation, status: BoxStatus, cause: StopCause) -> None:
    assert settled(row, decide(row, seen)) == (status, cause)


def test_verified_row_in_order_needs_nothing() -> None:
    assert decide(box(), Observation(IdentityKind.VERIFIED, pid=100)).steps == ()


@pytest.mark.parametrize("status", [BoxStatus.FAILED, BoxStatus.UNKNOWN, BoxStatus.CONFIGURED])
def test_a_live_shim_makes_the_box_running_again(status: BoxStatus) -> None:
    row = box(status, Desired.RUNNING, cause=StopCause.CRASHED, pid=None)
    plan = decide(row, Observation(IdentityKind.VERIFIED, pid=100))
    assert plan.steps == (Step.ADOPT,)
    assert plan.status is BoxStatus.RUNNING


def test_legacy_is_adopted_with_a_warning() -> None:
    plan = decide(box(pid=None), Observation(IdentityKind.LEGACY, pid=100))
    assert plan.steps == (Step.ADOPT,)
    assert plan.warning is not None
    assert "restart" in plan.warning


def test_stale_exit_beside_a_live_shim_is_stashed() -> None:
    seen = Observation(IdentityKind.VERIFIED, pid=100, exit=ExitSeen.CRASH, exit_run=ExitRun.OTHER)
    plan = decide(box(), seen)
    assert plan.steps == (Step.STASH_EXIT,)
    assert plan.warning is not None


def test_stopped_by_the_user_and_alive_is_drained() -> None:
    row = box(BoxStatus.STOPPED, Desired.STOPPED, cause=StopCause.USER, run_open=False)
    plan = decide(row, Observation(IdentityKind.VERIFIED, pid=100))
    assert plan.steps == (Step.DRAIN,)
    assert plan.again


def test_stopped_otherwise_and_alive_is_adopted() -> None:
    row = box(BoxStatus.STOPPED, Desired.STOPPED, cause=StopCause.LOST, run_open=False)
    assert Step.ADOPT in decide(row, Observation(IdentityKind.VERIFIED, pid=100)).steps
    assert not wants_drain(row)


def test_leftovers_come_before_every_verdict() -> None:
    plan = decide(box(), Observation(ABSENT, leftovers=True, exit=ExitSeen.CRASH))
    assert plan.steps == (Step.KILL_LEFTOVERS,)
    assert plan.again


def test_fresh_death_waits_for_its_evidence() -> None:
    plan = decide(box(), Observation(ABSENT, evidence_pending=True))
    assert plan.steps == (Step.AWAIT_EVIDENCE,)
    assert plan.again


def test_interrupted_start_without_a_fork_leaves_the_box_as_it_was() -> None:
    row = box(BoxStatus.CONFIGURED, Desired.RUNNING, run_open=True)
    plan = decide(row, Observation(ABSENT))
    assert plan.steps == (Step.CLOSE_RUN, Step.WANT_STOPPED)
    assert plan.status is None


def test_interrupted_start_does_not_make_a_crash_of_an_earlier_stop() -> None:
    """Once the row names no run, the exit file of the run before would be taken for an unexplained crash."""
    row = box(BoxStatus.STOPPED, Desired.RUNNING, cause=StopCause.USER, run_open=True)
    left = Observation(ABSENT, exit=ExitSeen.CRASH, exit_run=ExitRun.OTHER, exit_signal="SIGTERM", exit_code=143)
    assert decide(row, left).steps == (Step.STASH_EXIT, Step.CLOSE_RUN, Step.WANT_STOPPED)
    failed = box(BoxStatus.FAILED, Desired.RUNNING, cause=StopCause.CRASHED, run_open=True)
    assert Step.STASH_EXIT not in decide(failed, left).steps  # it says why the box is as it is


def test_interrupted_start_uses_up_no_retry() -> None:
    policy = Restart(policy=RestartPolicyName.ALWAYS, max_retries=1)
    row = msgspec.structs.replace(
        box(BoxStatus.FAILED, Desired.RUNNING, run_open=True, restart=policy), restart_count=1
    )
    plan = decide(row, Observation(ABSENT))
    assert (plan.steps, plan.restart_count) == ((Step.CLOSE_RUN, Step.SCHEDULE_RESTART), 0)


def test_unknown_is_said_only_after_three_passes() -> None:
    seen = Observation(IdentityKind.UNKNOWN, errno=24, unknown_passes=2)
    assert decide(box(), seen).steps == ()
    seen = Observation(IdentityKind.UNKNOWN, errno=24, unknown_passes=3)
    assert decide(box(), seen).steps == (Step.SAY_UNKNOWN,)


@pytest.mark.parametrize(
    "request_", [Request.START, Request.STOP, Request.REMOVE, Request.FORCE_REMOVE, Request.ATTACH]
)
def test_commands_on_an_unknown_shim_are_refused(request_: Request) -> None:
    assert decide(box(), Observation(IdentityKind.UNKNOWN, errno=5), request_).refuse is not None


def test_configured_box_stays_as_it_is() -> None:
    row = box(BoxStatus.CONFIGURED, Desired.STOPPED, run_open=False)
    assert decide(row, Observation(ABSENT)).steps == ()


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [
        (RestartPolicyName.NO, 1, False),
        (RestartPolicyName.ON_FAILURE, 0, False),
        (RestartPolicyName.ON_FAILURE, 1, True),
        (RestartPolicyName.ALWAYS, 0, True),
    ],
)
def test_restart_policy(policy: RestartPolicyName, code: int, *, restarts: bool) -> None:
    seen = Observation(ABSENT, exit=ExitSeen.EXITED, exit_code=code)
    plan = decide(box(policy=policy), seen)
    assert (Step.SCHEDULE_RESTART in plan.steps) is restarts
    assert (Step.WANT_STOPPED in plan.steps) is not restarts


@pytest.mark.parametrize("reboot", [True, False])
@pytest.mark.parametrize("policy", list(RestartPolicyName))
def test_an_end_that_nobody_knows_is_no_success(policy: RestartPolicyName, *, reboot: bool) -> None:
    row = box(policy=policy)
    plan = decide(row, Observation(ABSENT, boot_changed=reboot))
    assert plan.cause is (StopCause.HOST_REBOOTED if reboot else StopCause.LOST)
    restarts = policy is not RestartPolicyName.NO
    assert (Step.SCHEDULE_RESTART in plan.steps) is restarts
    settled = box(BoxStatus.STOPPED, Desired.RUNNING, policy=policy, cause=plan.cause, run_open=False)
    assert (Step.SCHEDULE_RESTART in decide(settled, Observation(ABSENT)).steps) is restarts


def test_restart_policy_gives_up_and_forgets_after_a_healthy_run() -> None:
    row = Box(
        box_id=BOX_ID,
        name="web",
        spec=BoxSpec(restart=Restart(policy=RestartPolicyName.ALWAYS, max_retries=2)),
        status=BoxStatus.RUNNING,
        desired=Desired.RUNNING,
        restart_count=2,
    )
    short = decide(row, Observation(ABSENT, exit=ExitSeen.EXITED, exit_code=0, ran_seconds=1))
    assert Step.GIVE_UP in short.steps
    assert Step.SCHEDULE_RESTART not in short.steps
    healthy = decide(row, Observation(ABSENT, exit=ExitSeen.EXITED, exit_code=0, ran_seconds=10))
    assert Step.SCHEDULE_RESTART in healthy.steps
    assert healthy.restart_count == 0


def test_a_manual_stop_beats_the_restart_policy() -> None:
    row = box(BoxStatus.STOPPING, Desired.STOPPED, RestartPolicyName.ALWAYS, cause=StopCause.USER)
    assert Step.SCHEDULE_RESTART not in decide(row, Observation(ABSENT)).steps
    waiting = box(BoxStatus.FAILED, Desired.RUNNING, RestartPolicyName.ALWAYS, run_open=False)
    assert decide(waiting, Observation(ABSENT), Request.STOP).steps == (Step.WANT_STOPPED,)
    stopped = box(BoxStatus.FAILED, Desired.STOPPED, RestartPolicyName.ALWAYS, run_open=False)
    assert Step.SPAWN not in decide(stopped, Observation(ABSENT), Request.RESTART).steps


def test_a_due_restart_survives_the_daemon() -> None:
    row = box(BoxStatus.FAILED, Desired.RUNNING, RestartPolicyName.ALWAYS, run_open=False)
    assert decide(row, Observation(ABSENT)).steps == (Step.SCHEDULE_RESTART,)


def test_failed_start_by_hand_ends_and_by_policy_goes_on() -> None:
    row = box(BoxStatus.STOPPED, Desired.RUNNING, RestartPolicyName.ALWAYS, run_open=True)
    assert Step.WANT_STOPPED in decide_start_failed(row, Observation(ABSENT), by_policy=False).steps
    assert Step.SCHEDULE_RESTART in decide_start_failed(row, Observation(ABSENT), by_policy=True).steps
    assert decide_start_failed(row, Observation(IdentityKind.VERIFIED), by_policy=False).steps == ()


def test_auto_remove_follows_the_published_end() -> None:
    row = box(auto_remove=True)
    plan = decide(row, Observation(ABSENT, exit=ExitSeen.EXITED, exit_code=0))
    assert Step.SETTLE in plan.steps
    assert plan.again
    ended = box(BoxStatus.STOPPED, Desired.STOPPED, run_open=False, auto_remove=True)
    assert decide(ended, Observation(ABSENT)).steps == (Step.REMOVE,)


@pytest.mark.parametrize(("cause", "told"), [(StopCause.CRASHED, True), (StopCause.USER, False), (None, False)])
def test_a_crash_that_was_told_and_reset_is_not_told_again(cause: StopCause | None, *, told: bool) -> None:
    row = box(BoxStatus.STOPPED, Desired.STOPPED, cause=cause)
    seen = Observation(IdentityKind.ABSENT, exit=ExitSeen.CRASH, exit_run=ExitRun.UNSAID, exit_signal="SIGABRT")
    assert (Step.SETTLE not in decide(row, seen).steps) is told


def test_a_settled_row_is_not_settled_again() -> None:
    row = box(BoxStatus.FAILED, Desired.STOPPED, run_open=False, cause=StopCause.CRASHED)
    assert decide(row, Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGABRT")).steps == ()


@pytest.mark.parametrize("status", BoxStatus)
def test_execution_plan_raises_on_unknown_instead_of_guessing(status: BoxStatus) -> None:
    if status is BoxStatus.UNKNOWN:
        with pytest.raises(InvalidState):
            execution_plan(status)
    else:
        assert isinstance(execution_plan(status), ExecutionPlan)


@pytest.mark.parametrize("kind", IdentityKind)
@pytest.mark.parametrize("valid_id", [True, False])
@pytest.mark.parametrize("valid_config", [True, False])
@pytest.mark.parametrize("lost", [True, False])
def test_orphan_directories(kind: IdentityKind, *, valid_id: bool, valid_config: bool, lost: bool) -> None:
    plan = decide_orphan(kind, valid_id=valid_id, valid_config=valid_config, database_lost=lost)
    if kind is not IdentityKind.ABSENT:
        assert plan in (OrphanPlan.LEAVE, OrphanPlan.ADOPT)
    if plan is OrphanPlan.REBUILD:
        assert lost
        assert valid_config
    if kind is IdentityKind.ABSENT and not lost:
        assert plan is OrphanPlan.QUARANTINE


def test_decide_is_pure() -> None:
    """It imports no os, time, sqlite3, trio or logging, and awaits nothing."""
    tree = ast.parse(Path(module.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef)
    assert not imported & {"os", "time", "sqlite3", "trio", "logging", "structlog", "random"}


@pytest.mark.parametrize("request_", [Request.STOP, Request.REMOVE, Request.FORCE_REMOVE])
def test_a_command_to_end_schedules_no_restart_of_the_death_that_it_meets(request_: Request) -> None:
    row = box(policy=RestartPolicyName.ALWAYS)
    plan = decide(row, Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGABRT"), request_)
    assert Step.WANT_STOPPED in plan.steps
    assert Step.SCHEDULE_RESTART not in plan.steps


def test_no_policy_waits_for_a_directory_that_is_gone() -> None:
    row = box(policy=RestartPolicyName.ALWAYS)
    assert decide(row, Observation(ABSENT, directory=False)).steps == (Step.SETTLE, Step.WANT_STOPPED)
    known = box(BoxStatus.FAILED, policy=RestartPolicyName.ALWAYS, cause=StopCause.DIRECTORY_MISSING, run_open=False)
    assert decide(known, Observation(ABSENT, directory=False), Request.STOP).steps == (Step.WANT_STOPPED,)


@pytest.mark.parametrize(
    ("code", "says"), [(0, "its shim exited with code 0: the disk"), (None, "or any other record")]
)
def test_a_box_that_is_lost_says_what_was_seen_of_its_shim(code: int | None, says: str) -> None:
    plan = decide(box(), Observation(ABSENT, shim_code=code))
    assert plan.cause is StopCause.LOST
    assert plan.warning is not None
    assert says in plan.warning
