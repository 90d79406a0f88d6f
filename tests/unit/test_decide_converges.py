"""Plans carried out in a model of the world: every settlement ends, does what was asked, and leaves nothing to do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import pytest

from boxlited.model import Box, BoxStatus, Desired, IdentityKind, StopCause
from boxlited.supervisor.decide import decide, is_run_open, wanted_after_drain
from boxlited.supervisor.plans import ExitRun, ExitSeen, Observation, Plan, Request, Step
from tests.unit.decide_support import observations, rows

ROUNDS = 8
STRIDE = 17  # a prime: each row meets every kind of observation. With 1 it is the whole product, in a minute
RUNS = (BoxStatus.RUNNING, BoxStatus.PAUSED)
NO_EXIT = {"exit": ExitSeen.NONE, "exit_run": ExitRun.THIS, "exit_signal": None, "exit_code": None}
World = tuple[Box | None, Observation]


def seen_changes(row: Box, step: Step) -> dict[str, object]:
    """What a step makes of the world."""
    match step:
        case Step.STASH_EXIT:
            return dict(NO_EXIT)
        case Step.KILL_LEFTOVERS:
            return {"leftovers": False}
        case Step.DRAIN | Step.DRAIN_NOW:
            end = {"exit": ExitSeen.CRASH, "exit_run": ExitRun.THIS, "exit_signal": "SIGTERM", "exit_code": 143}
            return {"identity": IdentityKind.ABSENT, "pid": None, "pid_file_wrong": False, **end}
        case Step.RESTORE_PID_FILE:
            return {"pid_file": True, "pid_file_wrong": False}
        case Step.REMOVE_PID_FILE:
            return {"pid_file": False}
        case Step.AWAIT_EVIDENCE:
            return {"evidence_pending": False}
        case Step.SETTLE | Step.CLOSE_RUN:
            return {"boot_changed": False, "shim_signal": None, "oom": False}
        case Step.SPAWN:
            return {"identity": IdentityKind.VERIFIED, "pid": 200, "pid_file": True, "boot_changed": False, **NO_EXIT}
        case _:
            return {}


def row_changes(row: Box, seen: Observation, plan: Plan, step: Step, request: Request) -> dict[str, object]:
    """What a step makes of the row."""
    match step:
        case Step.DRAIN | Step.DRAIN_NOW:
            return {
                "status": BoxStatus.STOPPING,
                "desired": wanted_after_drain(row, request),
                "stop_cause": StopCause.USER,
            }
        case Step.ADOPT:
            found = {"pid": seen.pid, "identity": seen.identity, "ended_at": None, "stop_cause": None}
            return {"status": BoxStatus.RUNNING, "desired": Desired.RUNNING, **found}
        case Step.SETTLE:
            return {"status": plan.status, "stop_cause": plan.cause, "ended_at": 1.0, "pid": None}
        case Step.CLOSE_RUN:
            return {"run_id": None, "ended_at": 1.0}
        case Step.SAY_UNKNOWN:
            return {"status": BoxStatus.UNKNOWN}
        case Step.WANT_STOPPED:
            return {"desired": Desired.STOPPED}
        case Step.SPAWN:
            run = {"run_id": "s", "pid": 200, "identity": IdentityKind.VERIFIED, "ended_at": None, "stop_cause": None}
            return {"status": BoxStatus.RUNNING, "desired": Desired.RUNNING, **run}
        case _:
            return {}


def carry_out(row: Box, seen: Observation, plan: Plan, request: Request) -> World:
    """As `apply` does."""
    for step in plan.steps:
        if step is Step.REMOVE:
            return None, seen
        row = msgspec.structs.replace(row, **row_changes(row, seen, plan, step, request))
        seen = replace(seen, **seen_changes(row, step))  # type: ignore[arg-type]
    return row, seen


def settle(row: Box, seen: Observation, request: Request) -> tuple[World, Plan]:
    """As `Settler.settle` does; returns the last plan too."""
    for _ in range(ROUNDS):
        plan = decide(row, seen, request)
        after, seen = carry_out(row, seen, plan, request)
        if after is None or not plan.again:
            return (after, seen), plan
        row = after
    raise AssertionError(f"does not settle: {plan}")


def check_outcome(request: Request, world: World, plan: Plan) -> None:
    row, seen = world
    if row is None or plan.refuse is not None:
        return
    if request is Request.STOP:
        assert not seen.alive
        assert row.status not in (BoxStatus.RUNNING, BoxStatus.STOPPING)
        assert row.desired not in (Desired.RUNNING, Desired.RESTARTED)
    if request is Request.STOP_TO_START:
        assert not seen.alive
        assert row.status not in (BoxStatus.RUNNING, BoxStatus.STOPPING)
    if request in (Request.START, Request.ATTACH):
        assert seen.alive
        assert (row.status in RUNS, row.desired) == (True, Desired.RUNNING)
    if request in (Request.REMOVE, Request.FORCE_REMOVE):
        raise AssertionError("neither removed nor refused")


@pytest.mark.parametrize("request_", Request)
def test_every_settlement_ends_does_what_was_asked_and_the_next_pass_changes_nothing(request_: Request) -> None:
    pairs = itertools.product(observations(), rows())
    for seen, row in itertools.islice(pairs, list(Request).index(request_), None, STRIDE):
        world, plan = settle(row, seen, request_)
        check_outcome(request_, world, plan)
        check_rest(world)


def check_rest(world: World) -> None:
    """One reconcile may finish what a command left; the pass after that finds nothing (a timer may run)."""
    row, seen = world
    for _ in range(2):
        if row is None:
            return
        (row, seen), _plan = settle(row, seen, Request.RECONCILE)
    if row is not None:
        plan = decide(row, seen)
        assert set(plan.steps) <= {Step.SCHEDULE_RESTART}, (row, seen, plan)
        if not seen.alive and seen.identity is IdentityKind.ABSENT:
            assert not is_run_open(row)
            blamed = seen.directory and seen.exit is ExitSeen.CRASH and seen.exit_run is ExitRun.OTHER
            assert not blamed, "the crash of another run lies in the active slot"
