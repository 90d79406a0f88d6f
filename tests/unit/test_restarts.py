"""The restart policy: 100 ms doubling to 60 s with jitter, a limit, a clean slate after 10 s up, one timer a box."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from boxlited.model import (
    Backoff,
    Box,
    BoxID,
    BoxSpec,
    BoxStatus,
    Desired,
    IdentityKind,
    Restart,
    RestartPolicyName,
)
from boxlited.store.store import Store
from boxlited.supervisor.decide import decide, decide_start_failed
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.plans import ExitRun, ExitSeen, Observation, Plan, Request, Step
from boxlited.supervisor.restarts import Restarts, backoff_seconds

ID = BoxID.parse("a" * 16)
NO, ON_FAILURE, ALWAYS = RestartPolicyName.NO, RestartPolicyName.ON_FAILURE, RestartPolicyName.ALWAYS


def box(policy: RestartPolicyName = ALWAYS, restart_count: int = 0, box_id: BoxID = ID, **restart: Any) -> Box:
    """Wanted running, and running."""
    return Box(
        box_id=box_id, name="web", spec=BoxSpec(restart=Restart(policy=policy, **restart)),
        status=BoxStatus.RUNNING, desired=Desired.RUNNING, run_id="r", pid=100, restart_count=restart_count,
    )  # fmt: skip


# ---- the delay


def test_the_delay_doubles_from_100_ms_to_60_s() -> None:
    delays = [backoff_seconds(box(restart_count=count), 0.5) for count in range(12)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60])


def test_the_jitter_is_ten_per_cent_to_each_side() -> None:
    assert backoff_seconds(box(), 0.0) == pytest.approx(0.09)
    assert backoff_seconds(box(restart_count=99), 1 - 2**-53) == pytest.approx(66.0)


backoffs = st.builds(
    Backoff,
    initial_seconds=st.floats(1e-300, 3600, allow_subnormal=False),
    max_seconds=st.floats(1e-300, 86400, allow_subnormal=False),
)


@given(backoffs, st.integers(0, 2**63), st.floats(0, 1, exclude_max=True))
def test_every_delay_is_positive_and_bounded(backoff: Backoff, count: int, randomness: float) -> None:
    delay = backoff_seconds(box(restart_count=count, backoff=backoff), randomness)
    assert 0 < delay <= 1.1 * backoff.max_seconds * (1 + 1e-9)


@given(backoffs, st.integers(0, 1000))
def test_a_delay_never_shrinks_and_at_last_is_the_longest(backoff: Backoff, count: int) -> None:
    first, second, last = (
        backoff_seconds(box(restart_count=number, backoff=backoff), 0.5) for number in (count, count + 1, 10**9)
    )
    assert first <= second <= last
    if backoff.initial_seconds > 1e-200:
        assert last == pytest.approx(backoff.max_seconds)


# ---- when, how often


def ended(code: int | None, ran_seconds: float = 1.0, **values: Any) -> Observation:
    """The workload's exit code, or None for a crash."""
    return Observation(
        IdentityKind.ABSENT, exit=ExitSeen.CRASH if code is None else ExitSeen.EXITED, exit_run=ExitRun.THIS,
        exit_signal="SIGABRT" if code is None else None, exit_code=code, ran_seconds=ran_seconds, **values,
    )  # fmt: skip


def settled(row: Box, seen: Observation, plan: Plan) -> Box:
    """The row as `apply` would write it."""
    count = plan.restart_count if plan.restart_count is not None else row.restart_count
    changes: dict[str, Any] = {"status": plan.status, "exit_code": seen.exit_code, "restart_count": count}
    if Step.WANT_STOPPED in plan.steps:
        changes["desired"] = Desired.STOPPED
    return msgspec.structs.replace(row, ended_at=1.0, pid=None, **changes)


def lives(row: Box, runs: list[tuple[int | None, float]]) -> tuple[list[float], Box, Plan]:
    """Run after run, each (exit code, seconds up): the delays before the next, and how it stood at last."""
    delays = []
    for code, seconds in runs:
        seen = ended(code, seconds)
        plan = decide(row, seen)
        row = settled(row, seen, plan)
        if Step.SCHEDULE_RESTART not in plan.steps:
            return delays, row, plan
        delays.append(backoff_seconds(row, 0.5))
        due = decide(row, Observation(IdentityKind.ABSENT), Request.RESTART)
        assert Step.SPAWN in due.steps
        row = msgspec.structs.replace(
            row, status=BoxStatus.RUNNING, ended_at=None, exit_code=None, restart_count=due.restart_count
        )
    return delays, row, plan


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [
        (NO, 0, False), (NO, 1, False), (NO, None, False),
        (ON_FAILURE, 0, False), (ON_FAILURE, 1, True), (ON_FAILURE, 255, True), (ON_FAILURE, None, True),
        (ALWAYS, 0, True), (ALWAYS, 1, True), (ALWAYS, None, True),
    ],
)  # fmt: skip
def test_which_ends_are_followed_by_another_run(policy: RestartPolicyName, code: int | None, *, restarts: bool) -> None:
    delays, row, plan = lives(box(policy), [(code, 1.0)])
    assert bool(delays) is restarts
    assert row.desired is (Desired.RUNNING if restarts else Desired.STOPPED)
    assert Step.GIVE_UP not in plan.steps
    seen = ended(code)
    again = decide(settled(box(policy), seen, decide(box(policy), seen)), seen)  # the daemon died before the timer
    assert (Step.SCHEDULE_RESTART in again.steps) is restarts


@given(st.integers(0, 12), st.sampled_from([ON_FAILURE, ALWAYS]), st.sampled_from([None, 1, 255]))
def test_max_retries_is_the_number_of_restarts_and_then_it_gives_up(
    limit: int, policy: RestartPolicyName, code: int | None
) -> None:
    delays, row, plan = lives(box(policy, max_retries=limit), [(code, 1.0)] * (limit + 5))
    assert len(delays) == row.restart_count == limit
    assert Step.GIVE_UP in plan.steps
    assert row.desired is Desired.STOPPED
    assert decide(row, Observation(IdentityKind.ABSENT)).steps == ()


def test_without_a_limit_it_never_gives_up() -> None:
    delays, row, _plan = lives(box(ALWAYS), [(None, 0.0)] * 200)
    assert len(delays) == row.restart_count == 200
    assert delays[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert delays[-1] == pytest.approx(60.0)


@pytest.mark.parametrize(("seconds", "next_delay"), [(9.99, 0.8), (10.0, 0.1), (1e9, 0.1)])
def test_ten_seconds_up_make_a_clean_slate(seconds: float, next_delay: float) -> None:
    delays, _row, _plan = lives(box(ALWAYS, max_retries=4), [(1, 1.0)] * 3 + [(1, seconds)])
    assert delays == pytest.approx([0.1, 0.2, 0.4, next_delay])


@given(st.lists(st.tuples(st.sampled_from([None, 0, 1]), st.floats(0, 20)), min_size=1, max_size=30), st.integers(0, 5))
def test_since_the_last_long_run_there_are_no_more_restarts_than_the_limit(
    runs: list[tuple[int | None, float]], limit: int
) -> None:
    delays, row, plan = lives(box(ALWAYS, max_retries=limit), runs)
    streak = longest = 0
    for _code, seconds in runs[: len(delays)]:
        streak = 1 if seconds >= 10 else streak + 1
        longest = max(longest, streak)
    assert longest <= limit
    assert row.restart_count <= limit
    gave_up = Step.GIVE_UP in plan.steps
    assert gave_up == (len(delays) < len(runs))


def test_a_start_that_fails_by_the_timer_counts_and_one_by_a_user_ends_it() -> None:
    row = box(ALWAYS, restart_count=1, max_retries=2)
    absent = Observation(IdentityKind.ABSENT)
    assert Step.SCHEDULE_RESTART in decide_start_failed(row, absent, by_policy=True).steps
    spent = msgspec.structs.replace(row, restart_count=2)
    assert Step.GIVE_UP in decide_start_failed(spent, absent, by_policy=True).steps
    assert Step.WANT_STOPPED in decide_start_failed(row, absent, by_policy=False).steps


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.REMOVED])
def test_a_timer_that_is_due_starts_nothing_that_is_no_longer_wanted(desired: Desired) -> None:
    row = msgspec.structs.replace(box(), status=BoxStatus.STOPPED, desired=desired, ended_at=1.0)
    assert Step.SPAWN not in decide(row, Observation(IdentityKind.ABSENT), Request.RESTART).steps
    alive = Observation(IdentityKind.VERIFIED, pid=100)
    assert Step.SPAWN not in decide(box(), alive, Request.RESTART).steps


# ---- the timers


class Timers:
    def __init__(self, ledger: Ledger, nursery: trio.Nursery) -> None:
        self.ledger = ledger
        self.fired: list[tuple[BoxID, float]] = []
        self.restarts = Restarts(ledger, nursery, self._fire)

    async def _fire(self, box_id: BoxID) -> None:
        assert not self.restarts.is_scheduled(box_id)
        self.fired.append((box_id, trio.current_time()))


@asynccontextmanager
async def timers(tmp_path: Path) -> AsyncIterator[Timers]:
    async with trio.open_nursery() as nursery:
        yield Timers(Ledger(Store.at(tmp_path / "db"), lambda handle: None), nursery)
        nursery.cancel_scope.cancel()


async def test_a_timer_fires_once_after_its_delay(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with timers(tmp_path) as one:
        began = trio.current_time()
        delay = one.restarts.schedule(box(restart_count=5))
        assert delay == pytest.approx(3.2, rel=0.11)
        assert one.restarts.is_scheduled(ID)
        assert one.restarts.schedule(box(restart_count=5)) is None  # one a box
        await trio.sleep(100)
        assert one.fired == [(ID, pytest.approx(began + delay))]
        assert one.restarts.schedule(box()) is not None


async def test_delays_of_many_boxes_are_spread(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with timers(tmp_path) as one:
        ids = [BoxID.mint() for _ in range(100)]
        delays = {one.restarts.schedule(box(restart_count=20, box_id=box_id)) for box_id in ids}
        assert len(delays) > 90
        await trio.sleep(67)
        assert {box_id for box_id, _at in one.fired} == set(ids)


async def test_a_cancelled_timer_never_fires_and_the_next_is_another(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with timers(tmp_path) as one:
        one.restarts.cancel(ID)  # none runs: no error
        one.restarts.schedule(box(restart_count=20))
        one.restarts.cancel(ID)
        assert not one.restarts.is_scheduled(ID)
        began = trio.current_time()
        assert one.restarts.schedule(box()) is not None  # before the first has noticed
        await trio.lowlevel.checkpoint()
        assert one.restarts.is_scheduled(ID)
        await trio.sleep(1000)
        assert one.fired == [(ID, pytest.approx(began + 0.1, abs=0.011))]


async def test_a_removed_box_is_not_remembered_by_its_timer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with timers(tmp_path) as one:
        one.restarts.schedule(box())
        await trio.sleep(0.01)
        one.restarts.cancel(ID)
        del one.ledger._runtimes[ID]  # as the deletion of its row does
        await trio.sleep(10)
        assert one.ledger.runtimes() == []
        assert one.fired == []
