"""The judge of the power cuts: silent about every promise kept, loud about each one broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.oracle import broken
from tests.system.inside.recipe import spec_of
from tests.system.verdict import CUT, Ledger, half_there, lost, world

SAID = [
    {"what": "created", "box_id": "a", "name": "r1-c0-0"},
    {"what": "created", "box_id": "b", "name": "r1-c0-1"},
    {"what": "created", "box_id": "c", "name": "r1-c1-0"},
    {"what": "started", "box_id": "a"},
    {"what": "asked to remove", "box_id": "b"},
    {"what": "removed", "box_id": "b"},
    {"what": "event", "seq": 2, "kind": "created", "box_id": "a"},
]
LEDGER = Ledger.read("".join(f"{json.dumps(entry)}\n" for entry in SAID))


def row(box_id: str, name: str, status: str = "configured", cause: str | None = None) -> dict[str, Any]:
    spec = spec_of(name)
    return {
        "box_id": box_id,
        "name": name,
        "labels": spec["labels"],
        "status": status,
        "stop_cause": cause,
        "failure_reason": None,
        "exit_code": None,
    }


def config(name: str) -> dict[str, Any]:
    spec = spec_of(name)
    return {"name": spec.pop("name"), "spec": spec}


@pytest.fixture
def stock() -> dict[str, Any]:
    """Everything as it was promised, and one box more of which nobody had been told."""
    names = {"a": "r1-c0-0", "c": "r1-c1-0", "z": "r1-c9-4"}
    return deepcopy(
        {
            "rows": [row("a", names["a"], "stopped", "host_rebooted"), row("c", names["c"]), row("z", names["z"])],
            "events": [
                [1, "daemon_started", None],
                [2, "created", "a"],
                [3, "created", "b"],
                [4, "created", "c"],
                [5, "started", "a"],
                [6, "removed", "b"],
                [7, "created", "z"],
            ],
            "directories": {box_id: config(name) for box_id, name in names.items()},
            "shims": [],
            "processes": {},
            "left": {"zombies": []},
            "integrity": ["ok"],
            "set_aside": [],
            "quarantined": [],
        }
    )


def judged(ledger: Ledger, stock: dict[str, Any]) -> list[str]:
    return [*lost(ledger, stock), *half_there(stock), *broken(world(stock), ledger.promised())]


def test_kept_promises_are_no_violations(stock: dict[str, Any]) -> None:
    assert judged(LEDGER, stock) == []


def test_a_removal_that_was_only_asked_for_may_have_happened_or_not(stock: dict[str, Any]) -> None:
    ledger = Ledger.read("".join(f"{json.dumps(entry)}\n" for entry in SAID if entry["what"] != "removed"))
    assert judged(ledger, stock) == []
    stock["rows"].append(row("b", "r1-c0-1"))
    stock["directories"]["b"] = config("r1-c0-1")
    assert judged(ledger, stock) == []


TORN, WHOLE = '{"what": "created", "box_id": "a", "na', json.dumps(SAID[0])


@pytest.mark.parametrize("text", [f"{TORN}\n{CUT}\n", f"{WHOLE}\n\n{CUT}\n", f"{WHOLE}\n{TORN}\n{CUT}\n{WHOLE}\n"])
def test_the_last_acknowledgement_before_a_cut_may_be_cut_off_and_was_not_heard(text: str) -> None:
    ledger = Ledger.read(text)
    assert ledger.garbled == []
    assert list(ledger.created) == (["a"] if WHOLE in text else [])


@pytest.mark.parametrize("text", [f"{TORN}\n{TORN}\n{CUT}\n", f"{TORN}\n{WHOLE}\n{CUT}\n", f"{CUT}\n{TORN}\n", TORN])
def test_any_other_line_that_cannot_be_read_is_a_violation(text: str, stock: dict[str, Any]) -> None:
    ledger = Ledger.read(text)
    assert ledger.garbled == [TORN]
    assert "no cut explains it" in lost(ledger, stock)[0]


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda stock: stock["rows"].pop(0), "4: acknowledged box a is lost"),
        (lambda stock: stock["rows"].append(row("b", "r1-c0-1")), "4: the removed box b is back"),
        (lambda stock: stock["rows"][1].update(name="r1-c9-9"), "created box r1-c1-0 (c) is named r1-c9-9"),
        (lambda stock: stock["rows"][0].update(stop_cause="lost"), "started box a is ('stopped', 'lost')"),
        (lambda stock: stock["events"].pop(1), "4: event 2, told as ['created', 'a'], is now None"),
        (lambda stock: stock["events"].pop(3), "no event 'created' of box c"),
        (lambda stock: stock["events"].pop(4), "no event 'started' of box a"),
        (lambda stock: stock["events"].pop(5), "no event 'removed' of box b"),
    ],
)
def test_each_broken_promise_is_named(stock: dict[str, Any], change: Change, says: str) -> None:
    change(stock)
    assert says in judged(LEDGER, stock)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda stock: stock.update(integrity=["row 3 missing"]), "integrity_check: row 3 missing"),
        (lambda stock: stock["set_aside"].append("boxlited.db.corrupt-1"), "the database was set aside"),
        (lambda stock: stock["directories"].update(q="no box.json"), "6: directories and rows differ: ['q']"),
        (lambda stock: stock["directories"].pop("z"), "box.json of r1-c9-4: no directory"),
        (lambda stock: stock["directories"].update(z="ValueError: empty"), "box.json of r1-c9-4: ValueError"),
        (lambda stock: stock["directories"]["z"]["spec"].pop("cmd"), "box.json of r1-c9-4: cmd is None"),
        (lambda stock: stock["rows"][2].update(labels={}), "the row of r1-c9-4 has other labels"),
        (lambda stock: stock["rows"][2].update(status="failed"), "box r1-c9-4 is ('failed', None)"),
        (lambda stock: stock["events"].pop(6), "box r1-c9-4 has a row and no event"),
    ],
)
def test_whatever_is_half_there_is_named(stock: dict[str, Any], change: Change, says: str) -> None:
    change(stock)
    assert any(says in text for text in judged(LEDGER, stock))
