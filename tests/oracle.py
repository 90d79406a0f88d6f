"""The six invariants after a fault, and that no end is told that cannot be. Pure: what was seen in, words out.

Owns what must hold. How it is looked at is the matter of who asks: the harness looks at a daemon of this machine, the
soak and the sweep of faults through it; the tests of the virtual machine look from inside of that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# What must not change of a row when nothing happens.
STABLE_KEYS = ("box_id", "name", "status", "desired", "pid", "run_id", "stop_cause", "failure_reason", "exit_code")
WITH_A_SHIM = ("running", "stopping", "unknown")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """One look. Whatever belongs to one box is found by its id."""

    rows: Mapping[str, Row]
    shims: Collection[tuple[str, int]]  # (box id, pid) of each live one, read off the system
    events: Mapping[int, Any] = field(default_factory=dict)  # by number
    directories: Collection[str] | None = None  # None: what is on its way there was not waited for
    left: Mapping[str, Collection[Any]] = field(default_factory=dict)  # what should not be there, after a wait
    signalled: Collection[Any] = ()  # strangers that were alive before, and are not any more
    sleepers: Collection[str] = ()  # boxes whose workload never ends by itself
    processes: Mapping[str, Any] = field(default_factory=dict)  # of each live box, where they stay the same


@dataclass(frozen=True, slots=True)
class Promised:
    """What was acknowledged. `boxes`: id -> the status that was answered, if any."""

    boxes: Mapping[str, str | None] = field(default_factory=dict)
    removed: Collection[str] = ()
    events: Mapping[int, Any] = field(default_factory=dict)


def broken(seen: World, promised: Promised) -> list[str]:
    """Each invariant that does not hold, by its number."""
    found = [f"1: a stranger was signalled: {one}" for one in seen.signalled]
    found += [*_of_shims(seen), *_of_promises(seen, promised)]
    found += [f"6: {what} are left: {list(things)}" for what, things in seen.left.items() if things]
    if seen.directories is not None:
        present = {box_id for box_id, row in seen.rows.items() if row["stop_cause"] != "directory_missing"}
        wrong = sorted(present ^ set(seen.directories))
        found += [f"6: directories and rows differ: {wrong}"] if wrong else []
    return [*found, *_of_ends(seen)]


def changed(before: World, after: World) -> list[str]:
    """What a restart without a fault has changed."""
    found = [
        f"5: a second restart changed box {box_id}: {before.rows.get(box_id)} is now {after.rows.get(box_id)}"
        for box_id in sorted(before.rows.keys() | after.rows.keys())
        if _stable(before.rows.get(box_id)) != _stable(after.rows.get(box_id))
    ]
    if sorted(before.shims) != sorted(after.shims):
        found.append(f"5: a second restart changed the shims: {before.shims} are now {after.shims}")
    found += [
        f"5: a second restart changed the processes of box {box_id}: {processes} are now {after.processes.get(box_id)}"
        for box_id, processes in before.processes.items()
        if after.processes.get(box_id) != processes
    ]
    return [*found, *_of_events(before.events, after)]


def _stable(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else {key: row.get(key) for key in STABLE_KEYS}


def _of_shims(seen: World) -> Iterator[str]:
    owners = [box_id for box_id, _pid in seen.shims]
    for box_id in sorted(set(owners)):
        if owners.count(box_id) > 1:
            yield f"2: two live shims of one box: {[shim for shim in seen.shims if shim[0] == box_id]}"
    for box_id, pid in seen.shims:
        row = seen.rows.get(box_id)
        if row is None:
            yield f"3: live shim {pid} of {box_id} is not listed"
        elif row["status"] not in WITH_A_SHIM or (row["status"] == "running" and row["pid"] != pid):
            yield f"3: live shim {pid}, row {row}"
    for box_id, row in seen.rows.items():
        if row["status"] == "running" and (box_id, row["pid"]) not in seen.shims:
            yield f"3: said running without a shim: {row}"


def _of_promises(seen: World, promised: Promised) -> Iterator[str]:
    for box_id, status in promised.boxes.items():
        row = seen.rows.get(box_id)
        if row is None:
            yield f"4: acknowledged box {box_id} is lost"
        elif status is not None and row["status"] != status:
            yield f"4: {row} is not {status}"
    yield from (f"4: the removed box {box_id} is back" for box_id in promised.removed if box_id in seen.rows)
    yield from _of_events(promised.events, seen)


def _of_events(told: Mapping[int, Any], seen: World) -> Iterator[str]:
    for number, event in told.items():
        if seen.events.get(number) != event:
            yield f"4: event {number}, told as {event}, is now {seen.events.get(number)}"


def _of_ends(seen: World) -> Iterator[str]:
    """Who sleeps all day ends by a signal: whatever else is told of a box that ran is no truth."""
    for box_id, row in seen.rows.items():
        code = row["exit_code"] if row["status"] == "stopped" else None
        if box_id in seen.sleepers and code is not None and code <= 128:
            yield f"7: told to have ended by itself: {row}"
