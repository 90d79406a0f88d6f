"""The oracle itself: silent about a world that is well, and loud about each invariant that is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.oracle import STABLE_KEYS, Promised, World, broken, changed

EVENTS = {1: ("created", "a"), 2: ("started", "a"), 3: ("created", "b")}
PROMISED = Promised({"a": "running", "b": None, "c": "stopped"}, removed=["d"], events=EVENTS)


def row(box_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(STABLE_KEYS), "box_id": box_id, "status": status, **more}


def well() -> World:
    rows = {
        "a": row("a", "running", pid=11),
        "b": row("b", "configured"),
        "c": row("c", "stopped", stop_cause="user", exit_code=143),
        "e": row("e", "failed", stop_cause="directory_missing"),
    }
    left: dict[str, list[int]] = {"zombies": [], "descriptors": []}
    return World(rows, [("a", 11)], {**EVENTS, 4: ("stopped", "c")}, ["a", "b", "c"], left, sleepers=["a", "c"])


def with_row(world: World, box_id: str, /, **values: Any) -> World:
    return replace(
        world, rows={**world.rows, box_id: {**row(box_id, "running"), **world.rows.get(box_id, {}), **values}}
    )


def without_row(world: World, box_id: str) -> World:
    return replace(world, rows={key: value for key, value in world.rows.items() if key != box_id})


def test_a_world_that_is_well_is_not_complained_of() -> None:
    assert broken(well(), PROMISED) == []
    assert changed(well(), well()) == []


@pytest.mark.parametrize(
    ("number", "harm"),
    [
        (1, lambda world: replace(world, signalled=[99])),
        (2, lambda world: replace(world, shims=[("a", 11), ("a", 12)])),
        (3, lambda world: replace(world, shims=[("a", 11), ("z", 12)])),
        (3, lambda world: replace(world, shims=[("a", 11), ("b", 12)])),
        (3, lambda world: replace(world, shims=[("a", 12)])),
        (3, lambda world: replace(world, shims=[])),
        (4, lambda world: without_row(world, "b")),
        (4, lambda world: with_row(world, "c", status="failed")),
        (4, lambda world: with_row(world, "d", status="configured")),
        (4, lambda world: replace(world, events={1: EVENTS[1], 2: EVENTS[2]})),
        (4, lambda world: replace(world, events={**EVENTS, 2: ("stopped", "a")})),
        (6, lambda world: replace(world, left={"zombies": [13]})),
        (6, lambda world: replace(world, directories=["a", "b"])),
        (6, lambda world: replace(world, directories=["a", "b", "c", "stray"])),
        (7, lambda world: with_row(world, "c", exit_code=0)),
    ],
)  # fmt: skip
def test_each_invariant_that_is_broken_is_named(number: int, harm: Callable[[World], World]) -> None:
    assert f"{number}:" in {problem[:2] for problem in broken(harm(well()), PROMISED)}


@pytest.mark.parametrize(
    ("number", "harm"),
    [
        *((5, lambda world, key=key: with_row(world, "b", **{key: "another"})) for key in STABLE_KEYS),
        (5, lambda world: without_row(world, "e")),
        (5, lambda world: replace(world, shims=[("a", 12)])),
        (5, lambda world: replace(world, processes={"a": [12]})),
        (4, lambda world: replace(world, events=EVENTS)),
    ],
)  # fmt: skip
def test_what_a_restart_changed_is_named(number: int, harm: Callable[[World], World]) -> None:
    before = replace(well(), processes={"a": [11]})
    assert [problem[:2] for problem in changed(before, harm(before))] == [f"{number}:"]


def test_directories_that_nobody_looked_at_and_a_box_that_is_unknown_are_no_problem() -> None:
    world = with_row(replace(well(), directories=None), "a", status="unknown")
    assert broken(world, Promised()) == []
