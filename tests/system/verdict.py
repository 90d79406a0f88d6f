"""What only the virtual machine is asked beyond the oracle: acknowledgements that left it before a power cut, and what
is half there after it. Pure: text and values in, words out.

A promise that was kept is silent. What nobody was promised may be missing, but must not be half there.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tests.oracle import Promised, World
from tests.system.inside.recipe import spec_of

NEVER_RAN = ("configured", None)
REBOOTED = ("stopped", "host_rebooted")
CUT = '{"what": "cut"}'  # the line of our own that follows what was heard before the power went
SLEEPS = "/bin/sleep"

Row = dict[str, Any]


@dataclass
class Ledger:
    """Everything acknowledged so far, over all cuts."""

    created: dict[str, str] = field(default_factory=dict)  # box id -> name
    started: set[str] = field(default_factory=set)
    asked_to_remove: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    events: dict[int, list[Any]] = field(default_factory=dict)
    garbled: list[str] = field(default_factory=list)  # lines that no cut explains

    @classmethod
    def read(cls, text: str) -> Ledger:
        """One acknowledgement a line. The power may cut off the last before it, which was not heard, and no other."""
        ledger = cls()
        lines = [line for line in text.splitlines() if line]
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                if lines[number + 1 : number + 2] != [CUT]:
                    ledger.garbled.append(line)
                continue
            ledger._note(entry)
        return ledger

    def promised(self) -> Promised:
        """As the oracle takes it."""
        there = {box_id: None for box_id in self.created if box_id not in self.asked_to_remove}
        return Promised(there | dict.fromkeys(self.started, "stopped"), self.removed, self.events)

    def _note(self, entry: Row) -> None:
        match entry["what"]:
            case "created":
                self.created[entry["box_id"]] = entry["name"]
            case "started":
                self.started.add(entry["box_id"])
            case "asked to remove":
                self.asked_to_remove.add(entry["box_id"])
            case "removed":
                self.removed.add(entry["box_id"])
            case "event":
                self.events[entry["seq"]] = [entry["kind"], entry["box_id"]]


def world(stock: Row, signalled: Collection[Any] = ()) -> World:
    """What `taking_stock.py` saw, as the oracle takes it."""
    configs = {box_id: config for box_id, config in stock["directories"].items() if isinstance(config, dict)}
    return World(
        rows={row["box_id"]: row for row in stock["rows"]},
        shims=[(box_id, pid) for box_id, pid in stock["shims"]],
        events={number: event for number, *event in stock["events"]},
        directories=stock["directories"],
        left=stock["left"],
        signalled=signalled,
        sleepers=[
            box_id for box_id, config in configs.items() if config.get("spec", {}).get("cmd", "")[:1] == [SLEEPS]
        ],
        processes=stock["processes"],
    )


def lost(ledger: Ledger, stock: Row) -> list[str]:
    """Acknowledgements that do not hold, beyond what the oracle knows of them."""
    rows = {row["box_id"]: row for row in stock["rows"]}
    told = {(kind, box_id) for _seq, kind, box_id in stock["events"]}
    found = [f"an acknowledgement is no line, and no cut explains it: {line[:200]!r}" for line in ledger.garbled]
    found += [
        f"created box {name} ({box_id}) is named {rows[box_id]['name']}"
        for box_id, name in ledger.created.items()
        if box_id in rows and rows[box_id]["name"] != name
    ]
    found += [
        f"started box {box_id} is {_state(rows[box_id])}"
        for box_id in ledger.started & rows.keys()
        if _state(rows[box_id]) != REBOOTED
    ]
    for kind, box_ids in (("created", ledger.created), ("started", ledger.started), ("removed", ledger.removed)):
        found += [f"no event {kind!r} of box {box_id}" for box_id in box_ids if (kind, box_id) not in told]
    return found


def half_there(stock: Row) -> list[str]:
    """What is not whole, acknowledged or not."""
    found = [f"integrity_check: {line}" for line in stock["integrity"] if line != "ok"]
    found += [f"the database was set aside: {name}" for name in stock["set_aside"]]
    created = {box_id for _seq, kind, box_id in stock["events"] if kind == "created"}
    for row in stock["rows"]:
        wanted = spec_of(row["name"])
        if row["labels"] != wanted["labels"]:
            found.append(f"the row of {row['name']} has other labels")
        if _state(row) not in (NEVER_RAN, REBOOTED):
            found.append(f"box {row['name']} is {_state(row)}: {row['failure_reason']}")
        if row["box_id"] not in created:
            found.append(f"box {row['name']} has a row and no event")
        found += _config_problems(row, wanted, stock["directories"].get(row["box_id"], "no directory"))
    return found


def _config_problems(row: Row, wanted: Row, config: Any) -> list[str]:
    """box.json must say all that was asked for."""
    if not isinstance(config, dict):
        return [f"box.json of {row['name']}: {config}"]
    said = {**config.get("spec", {}), "name": config.get("name")}
    return [f"box.json of {row['name']}: {key} is {said.get(key)!r}" for key in wanted if said.get(key) != wanted[key]]


def _state(row: Row) -> tuple[str, str | None]:
    return row["status"], row["stop_cause"]
