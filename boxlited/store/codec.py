"""Box and Event to and from rows. Knows columns, not connections.

Everything is encoded in the task of the caller, so that a value that cannot be stored is that
caller's error and never the writer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from boxlited.model import Box, BoxID, BoxSpec, Event, EventDraft, EventKind, check_name

COLUMNS: tuple[str, ...] = tuple(field.name for field in msgspec.structs.fields(Box))
CHANGEABLE = frozenset(COLUMNS) - {"box_id", "name"}
INSERT_BOX = f"INSERT INTO boxes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
SELECT_BOXES = f"SELECT {', '.join(COLUMNS)} FROM boxes ORDER BY created_at, box_id"
DELETE_BOX = "DELETE FROM boxes WHERE box_id = ?"
INSERT_EVENT = "INSERT INTO events (seq, at, kind, box_id, name, data) VALUES (?, ?, ?, ?, ?, ?)"
SELECT_EVENTS = "SELECT seq, at, kind, box_id, name, data FROM events WHERE seq > ? ORDER BY seq LIMIT ?"


def clean(value: Any) -> Any:
    """Text from outside can hold bytes that are no UTF-8 (surrogates): they are escaped."""
    if isinstance(value, str) and type(value) is str and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(clean(item) for item in value)
    return value


def column(name: str, value: Any) -> Any:
    """One column's value as SQLite stores it. Raises ValueError for an integer beyond 64 bits."""
    if isinstance(value, Enum):
        return value.value
    if name == "spec":
        return msgspec.json.encode(value).decode()
    if name == "not_applied":
        return msgspec.json.encode(list(value)).decode()
    if isinstance(value, BoxID):
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} = {value} does not fit into the database")
    return value


def box_values(box: Box) -> tuple[Any, ...]:
    return tuple(column(name, getattr(box, name)) for name in COLUMNS)


def update_statement(changes: Mapping[str, Any], box_id: BoxID) -> tuple[str, tuple[Any, ...]]:
    """A narrow update: only the named columns. Raises ValueError for one that may not change."""
    names = sorted(changes)
    if not CHANGEABLE.issuperset(names):
        raise ValueError(f"columns {sorted(set(names) - CHANGEABLE)} of a box do not exist or never change")
    sql = f"UPDATE boxes SET {', '.join(f'{name} = ?' for name in names)} WHERE box_id = ?"
    return sql, (*(column(name, changes[name]) for name in names), str(box_id))


def box_from_row(row: Sequence[Any]) -> Box:
    """Raises ValueError (msgspec's errors are such) or InvalidArgument: the row does not fit the model."""
    content = dict(zip(COLUMNS, row, strict=True))
    box_id = BoxID.parse(content.pop("box_id"))
    check_name(content["name"])
    spec = msgspec.json.decode(content.pop("spec"), type=BoxSpec)
    not_applied = msgspec.json.decode(content.pop("not_applied"), type=tuple[str, ...])
    rest = msgspec.convert(content, _Rest)
    values = {name: getattr(rest, name) for name in _REST_NAMES}
    return Box(box_id=box_id, spec=spec, not_applied=not_applied, **values)


_SPECIAL = ("box_id", "spec", "not_applied")
_REST_NAMES = tuple(name for name in COLUMNS if name not in _SPECIAL)
_Rest = msgspec.defstruct(
    "_Rest", [(field.name, field.type) for field in msgspec.structs.fields(Box) if field.name not in _SPECIAL]
)


class Entry:
    """An event with its time and its data encoded, before the commit that gives it a number."""

    __slots__ = ("_at", "_data", "_draft")

    def __init__(self, draft: EventDraft, at: float) -> None:
        self._draft = msgspec.structs.replace(draft, name=clean(draft.name), data=clean(draft.data))
        self._at = at
        self._data = msgspec.json.encode(self._draft.data).decode()

    def row(self, seq: int) -> tuple[Any, ...]:
        draft = self._draft
        box_id = None if draft.box_id is None else str(draft.box_id)
        return seq, self._at, draft.kind.value, box_id, draft.name, self._data

    def event(self, seq: int) -> Event:
        draft = self._draft
        return Event(seq=seq, at=self._at, kind=draft.kind, box_id=draft.box_id, name=draft.name, data=draft.data)


def event_from_row(row: Sequence[Any]) -> Event:
    """A row that is not understood becomes a warning: no number is missing for its reader."""
    seq, at, kind, box_id, name, data = row
    content = {"seq": seq, "at": at, "kind": kind, "box_id": box_id, "name": name}
    try:
        return msgspec.convert({**content, "data": msgspec.json.decode(data)}, Event)
    except ValueError:
        return Event(seq=seq, at=at, kind=EventKind.WARNING, data={"message": "this event cannot be read any more"})
