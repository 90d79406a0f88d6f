"""The recovery table, over the whole cross product of row x observation x request."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import boxlited.supervisor.decide as module
from boxlited.errors import InvalidState
from boxlited.model import Box, BoxStatus, Desired, IdentityKind, StopCause
from boxlited.supervisor.decide import ExecutionPlan, OrphanPlan, decide, decide_orphan, execution_plan, wants_drain
from boxlited.supervisor.plans import ExitRun, ExitSeen, Observation, Plan, Request, Step
from tests.unit.decide_support import ABSENT, box, observations, rows

ACTS_ON_PROCESSES = {Step.DRAIN, Step.DRAIN_NOW, Step.KILL_LEFTOVERS, Step.SPAWN, Step.REMOVE}
CRASH = Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGABRT", pid_file=True)


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


@pytest.mark.parametrize(
    ("code", "says"), [(0, "its shim exited with code 0: the disk"), (None, "or any other record")]
)
def test_a_box_that_is_lost_says_what_was_seen_of_its_shim(code: int | None, says: str) -> None:
    plan = decide(box(), Observation(ABSENT, shim_code=code))
    assert plan.cause is StopCause.LOST
    assert plan.warning is not None
    assert says in plan.warning
