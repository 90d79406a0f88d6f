"""What a restart policy makes of an end, and what it has no say in."""

from __future__ import annotations

import msgspec
import pytest

from boxlited.model import Box, BoxSpec, BoxStatus, Desired, IdentityKind, Restart, RestartPolicyName, StopCause
from boxlited.supervisor.decide import decide, decide_start_failed, wanted_after_drain
from boxlited.supervisor.plans import ExitSeen, Observation, Request, Step
from tests.unit.decide_support import ABSENT, BOX_ID, box


def test_interrupted_start_uses_up_no_retry() -> None:
    policy = Restart(policy=RestartPolicyName.ALWAYS, max_retries=1)
    row = msgspec.structs.replace(
        box(BoxStatus.FAILED, Desired.RUNNING, run_open=True, restart=policy), restart_count=1
    )
    plan = decide(row, Observation(ABSENT))
    assert (plan.steps, plan.restart_count) == ((Step.CLOSE_RUN, Step.SCHEDULE_RESTART), 0)


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


def of_a_restart(status: BoxStatus, *, run_open: bool) -> Box:
    return box(status, Desired.RESTARTED, cause=StopCause.USER, run_open=run_open)


def test_a_restart_by_a_user_stops_the_old_run_and_no_other() -> None:
    alive = Observation(IdentityKind.VERIFIED, pid=100)
    assert decide(box(), alive, Request.STOP_TO_START).steps == (Step.DRAIN,)
    assert wanted_after_drain(box(), Request.STOP_TO_START) is Desired.RESTARTED
    cut = of_a_restart(BoxStatus.STOPPING, run_open=True)
    for request in (Request.RECONCILE, Request.START):
        assert decide(cut, alive, request).steps == (Step.DRAIN,)
        assert wanted_after_drain(cut, request) is Desired.RESTARTED
    assert decide(of_a_restart(BoxStatus.STOPPED, run_open=True), alive).steps == (Step.ADOPT,)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGSEGV"])
def test_a_restart_by_a_user_that_was_cut_goes_on_whatever_the_policy(signal: str) -> None:
    ended = Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal=signal)
    assert decide(of_a_restart(BoxStatus.STOPPING, run_open=True), ended).steps == (
        Step.SETTLE,
        Step.SCHEDULE_RESTART,
    )
    closed = of_a_restart(BoxStatus.STOPPED, run_open=False)
    assert decide(closed, Observation(ABSENT)).steps == (Step.SCHEDULE_RESTART,)
    due = decide(closed, Observation(ABSENT), Request.RESTART)
    assert (due.steps, due.restart_count) == ((Step.SPAWN,), 0)
    interrupted = decide(of_a_restart(BoxStatus.STOPPED, run_open=True), Observation(ABSENT))
    assert interrupted.steps == (Step.CLOSE_RUN, Step.SCHEDULE_RESTART)
    failed = decide_start_failed(of_a_restart(BoxStatus.STOPPED, run_open=True), Observation(ABSENT), by_policy=True)
    assert Step.WANT_STOPPED in failed.steps


def test_a_manual_stop_beats_a_restart_that_was_cut() -> None:
    alive = Observation(IdentityKind.VERIFIED, pid=100)
    stopping = of_a_restart(BoxStatus.STOPPING, run_open=True)
    assert decide(stopping, alive, Request.STOP).steps == (Step.DRAIN,)
    assert wanted_after_drain(stopping, Request.STOP) is Desired.STOPPED
    ended = Observation(ABSENT, exit=ExitSeen.CRASH, exit_signal="SIGTERM")
    assert Step.WANT_STOPPED in decide(stopping, ended, Request.STOP).steps
    closed = of_a_restart(BoxStatus.STOPPED, run_open=False)
    assert decide(closed, Observation(ABSENT), Request.STOP).steps == (Step.WANT_STOPPED,)
    removed = box(BoxStatus.STOPPING, Desired.REMOVED)
    assert wanted_after_drain(removed, Request.STOP_TO_START) is Desired.REMOVED
