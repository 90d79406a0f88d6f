"""The judge of the power cuts: silent about every promise kept, loud about each one broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.system.inside.recipe import spec_of
from tests.system.verdict import Ledger, broken, lost

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
            "integrity": ["ok"],
            "set_aside": [],
            "quarantined": [],
        }
    )


def test_kept_promises_are_no_violations(stock: dict[str, Any]) -> None:
    assert lost(LEDGER, stock) + broken(stock) == []


def test_a_removal_that_was_only_asked_for_may_have_happened_or_not(stock: dict[str, Any]) -> None:
    ledger = Ledger.read("".join(f"{json.dumps(entry)}\n" for entry in SAID if entry["what"] != "removed"))
    assert lost(ledger, stock) == []
    stock["rows"].append(row("b", "r1-c0-1"))
    assert lost(ledger, stock) == []


def test_an_acknowledgement_that_was_cut_off_was_not_heard() -> None:
    assert Ledger.read('{"what": "created", "box_id": "a", "na\n\n{"what": "removed"').created == {}


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda stock: stock["rows"].pop(0), "created box r1-c0-0 (a) is gone"),
        (lambda stock: stock["rows"].append(row("b", "r1-c0-1")), "removed box r1-c0-1 is back"),
        (lambda stock: stock["rows"][0].update(stop_cause="lost"), "started box a is ('stopped', 'lost')"),
        (lambda stock: stock["events"].pop(1), "event 2 ('created', 'a') is now None"),
        (lambda stock: stock["events"].pop(3), "no event 'created' of box c"),
        (lambda stock: stock["events"].pop(4), "no event 'started' of box a"),
        (lambda stock: stock["events"].pop(5), "no event 'removed' of box b"),
    ],
)
def test_each_broken_promise_is_named(stock: dict[str, Any], change: Change, says: str) -> None:
    change(stock)
    assert says in lost(LEDGER, stock)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda stock: stock.update(integrity=["row 3 missing"]), "integrity_check: row 3 missing"),
        (lambda stock: stock["set_aside"].append("boxlited.db.corrupt-1"), "the database was set aside"),
        (lambda stock: stock["directories"].update(q={}), "directory q without a row"),
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
    assert any(says in text for text in broken(stock))
