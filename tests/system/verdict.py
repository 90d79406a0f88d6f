"""Judges what is left after a power cut against what was acknowledged before it. Pure: text and values in, words out.

A promise that was kept is silent. What nobody was promised may be missing, but must not be half there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.system.inside.recipe import spec_of

NEVER_RAN = ("configured", None)
REBOOTED = ("stopped", "host_rebooted")

Row = dict[str, Any]


@dataclass
class Ledger:
    """Everything acknowledged so far, over all cuts."""

    created: dict[str, str] = field(default_factory=dict)  # box id -> name
    started: set[str] = field(default_factory=set)
    asked_to_remove: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    events: dict[int, tuple[str, str | None]] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Ledger:
        """One acknowledgement a line; one that the power cut off was not heard."""
        ledger = cls()
        for line in text.splitlines():
            try:
                ledger._note(json.loads(line))
            except ValueError:
                continue
        return ledger

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
                self.events[entry["seq"]] = (entry["kind"], entry["box_id"])


def lost(ledger: Ledger, stock: Row) -> list[str]:
    """Acknowledgements that do not hold."""
    rows = {row["box_id"]: row for row in stock["rows"]}
    events = {seq: (kind, box_id) for seq, kind, box_id in stock["events"]}
    told = set(events.values())
    found = [
        f"created box {name} ({box_id}) is gone"
        for box_id, name in ledger.created.items()
        if box_id not in rows and box_id not in ledger.asked_to_remove
    ]
    found += [f"removed box {ledger.created[box_id]} is back" for box_id in ledger.removed & rows.keys()]
    found += [
        f"started box {box_id} is {_state(rows[box_id])}"
        for box_id in ledger.started & rows.keys()
        if _state(rows[box_id]) != REBOOTED
    ]
    found += [
        f"event {seq} {event} is now {events.get(seq)}"
        for seq, event in ledger.events.items()
        if events.get(seq) != event
    ]
    for kind, box_ids in (("created", ledger.created), ("started", ledger.started), ("removed", ledger.removed)):
        found += [f"no event {kind!r} of box {box_id}" for box_id in box_ids if (kind, box_id) not in told]
    return found


def broken(stock: Row) -> list[str]:
    """What is half there, acknowledged or not."""
    rows = {row["box_id"]: row for row in stock["rows"]}
    found = [f"integrity_check: {line}" for line in stock["integrity"] if line != "ok"]
    found += [f"the database was set aside: {name}" for name in stock["set_aside"]]
    found += [f"directory {name} without a row" for name in stock["directories"] if name not in rows]
    created = {box_id for _seq, kind, box_id in stock["events"] if kind == "created"}
    for box_id, row in rows.items():
        wanted = spec_of(row["name"])
        if row["labels"] != wanted["labels"]:
            found.append(f"the row of {row['name']} has other labels")
        if _state(row) not in (NEVER_RAN, REBOOTED):
            found.append(f"box {row['name']} is {_state(row)}: {row['failure_reason']}")
        if box_id not in created:
            found.append(f"box {row['name']} has a row and no event")
        found += _config_problems(row, wanted, stock["directories"].get(box_id, "no directory"))
    return found


def _config_problems(row: Row, wanted: Row, config: Any) -> list[str]:
    """box.json must say all that was asked for."""
    if not isinstance(config, dict):
        return [f"box.json of {row['name']}: {config}"]
    said = {**config.get("spec", {}), "name": config.get("name")}
    return [f"box.json of {row['name']}: {key} is {said.get(key)!r}" for key in wanted if said.get(key) != wanted[key]]


def _state(row: Row) -> tuple[str, str | None]:
    return row["status"], row["stop_cause"]
