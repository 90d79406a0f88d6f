"""Box and Event to and from rows. Knows columns, not connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from boxlited.model import Box, BoxID, BoxSpec, Event

COLUMNS: tuple[str, ...] = tuple(field.name for field in msgspec.structs.fields(Box))
INSERT_BOX = f"INSERT INTO boxes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
SELECT_BOXES = f"SELECT {', '.join(COLUMNS)} FROM boxes ORDER BY created_at, box_id"
INSERT_EVENT = "INSERT INTO events (seq, at, kind, box_id, name, data) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_KEY = "INSERT OR REPLACE INTO idempotency (key, box_id, fingerprint, at) VALUES (?, ?, ?, ?)"


def column(name: str, value: Any) -> Any:
    """One column's value as SQLite stores it."""
    if isinstance(value, Enum):
        return value.value
    if name == "spec":
        return msgspec.json.encode(value).decode()
    if name == "not_applied":
        return msgspec.json.encode(list(value)).decode()
    if isinstance(value, BoxID):
        return str(value)
    return value


def box_values(box: Box) -> tuple[Any, ...]:
    return tuple(column(name, getattr(box, name)) for name in COLUMNS)


def update_statement(changes: Mapping[str, Any], box_id: BoxID) -> tuple[str, tuple[Any, ...]]:
    """A narrow update: only the named columns."""
    names = sorted(changes)
    sql = f"UPDATE boxes SET {', '.join(f'{name} = ?' for name in names)} WHERE box_id = ?"
    return sql, (*(column(name, changes[name]) for name in names), str(box_id))


def box_from_row(row: Sequence[Any]) -> Box:
    """Raises msgspec.ValidationError when a row does not fit the model."""
    content = dict(zip(COLUMNS, row, strict=True))
    spec = msgspec.json.decode(content.pop("spec"), type=BoxSpec)
    not_applied = msgspec.json.decode(content.pop("not_applied"), type=tuple[str, ...])
    box_id = BoxID(content.pop("box_id"))
    rest = msgspec.convert(content, _Rest)
    values = {name: getattr(rest, name) for name in _REST_NAMES}
    return Box(box_id=box_id, spec=spec, not_applied=not_applied, **values)


_SPECIAL = ("box_id", "spec", "not_applied")
_REST_NAMES = tuple(name for name in COLUMNS if name not in _SPECIAL)
_Rest = msgspec.defstruct(
    "_Rest", [(field.name, field.type) for field in msgspec.structs.fields(Box) if field.name not in _SPECIAL]
)


def event_values(event: Event) -> tuple[Any, ...]:
    box_id = None if event.box_id is None else str(event.box_id)
    data = msgspec.json.encode(event.data).decode()
    return event.seq, event.at, event.kind.value, box_id, event.name, data


def event_from_row(row: Sequence[Any]) -> Event:
    seq, at, kind, box_id, name, data = row
    content = {"seq": seq, "at": at, "kind": kind, "box_id": box_id, "name": name, "data": msgspec.json.decode(data)}
    return msgspec.convert(content, Event)
