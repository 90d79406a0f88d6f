"""What the soak takes for the truth about an end, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.truth import Deeds, untruths

BOX = "a" * 16
SHIM = 4321


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:09.6f}+00:00"


def life(kind: str, cause: str, code: int | None, *, ready: bool = True) -> list[dict[str, Any]]:
    """A run from second 1 to second 9."""
    told = {"stop_cause": cause, "exit_code": code, "failure_reason": None}
    events = [(1.0, "starting", {"run_id": "r"})]
    events += [(2.0, "started", {"run_id": "r", "pid": SHIM})] if ready else []
    events += [(9.0, kind, told)]
    return [
        {"seq": seq, "at": at(second), "kind": what, "box_id": BOX, "data": data}
        for seq, (second, what, data) in enumerate(events, 1)
    ]


def is_believed(events: list[dict[str, Any]], own: int | None, *done: str, shim: int = SHIM) -> bool:
    deeds = Deeds()
    for what in done:
        of_all = what in ("kill daemon", "kill spawner", "blind shims")
        deed = deeds.note(what, None if of_all else BOX, shim if what.startswith("kill ") and not of_all else None)
        deed.began, deed.ended = 1767225605.0, 1767225606.0  # second 5
    return untruths(events, deeds, {BOX: own}) == []


@pytest.mark.parametrize(
    ("told", "own", "done"),
    [
        (("stopped", "exited", 3), 3, ()),
        (("failed", "crashed", 137), None, ("kill workload",)),
        (("failed", "crashed", 137), 3, ("kill below",)),
        (("stopped", "exited", 3), 3, ("kill below",)),
        (("stopped", "user", 143), None, ("stop",)),
        (("stopped", "user", 3), 3, ("stop",)),
        (("failed", "crashed", 140), None, ("signal",)),
        (("failed", "shim_killed", 137), None, ("kill shim",)),
        (("stopped", "lost", None), None, ("kill shim", "kill daemon")),
        (("failed", "crashed", 137), None, ("kill shim", "damage")),
    ],
)
def test_what_came_about_is_believed(told: tuple[str, str, int | None], own: int | None, done: tuple[str, ...]) -> None:
    assert is_believed(life(*told), own, *done)


@pytest.mark.parametrize(
    ("told", "own", "done"),
    [
        (("stopped", "exited", 0), None, ("kill workload",)),
        (("stopped", "exited", 0), 3, ()),
        (("stopped", "user", 0), None, ("stop",)),
        (("stopped", "exited", 3), 3, ("kill workload",)),
        (("failed", "crashed", 143), None, ("kill workload", "stop")),
        (("stopped", "exited", 3), None, ("stop", "kill below")),
        (("failed", "crashed", 137), None, ()),
        (("failed", "crashed", 137), 3, ("kill daemon",)),
        (("stopped", "user", 137), None, ("kill workload",)),
        (("stopped", "exited", 137), None, ("kill workload",)),
        (("failed", "shim_killed", 137), None, ("kill workload",)),
        (("failed", "crashed", 143), None, ("signal",)),
        (("failed", "oom", 137), None, ("kill workload",)),
        (("stopped", "lost", None), None, ("kill shim",)),
        (("stopped", "lost", None), None, ("kill daemon",)),
        (("stopped", "exited", None), None, ("kill shim", "kill daemon")),
        (("failed", "start_failed", None), None, ("kill shim",)),
    ],
)
def test_what_did_not_is_not(told: tuple[str, str, int | None], own: int | None, done: tuple[str, ...]) -> None:
    assert not is_believed(life(*told), own, *done)


def test_a_run_is_not_explained_by_what_befell_another_shim() -> None:
    assert not is_believed(life("failed", "crashed", 137), None, "kill workload", shim=SHIM + 1)


def test_a_start_may_fail_and_says_no_code_of_the_workload() -> None:
    assert is_believed(life("failed", "start_failed", 137, ready=False), 3)
    assert is_believed(life("failed", "crashed", 1, ready=False), 3)
    assert not is_believed(life("failed", "start_failed", 0, ready=False), 3)
    assert not is_believed(life("failed", "crashed", 1), 3)
