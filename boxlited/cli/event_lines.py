"""One event as one line for people. Pure; everything in it is made harmless to a terminal."""

from __future__ import annotations

import json
from datetime import datetime

from boxlited.cli.escape import line
from boxlited.cli.humanize import timestamp
from boxlited.client.values import EventInfo


def event_line(event: EventInfo) -> str:
    """`12  2025-01-31 12:00:00  failed  web  exit_code=1 reason="out of memory"`; local time."""
    at = timestamp(event.get("at"))
    when = "-" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
    who = event.get("name") or event.get("box_id") or "-"
    data = " ".join(f"{line(key)}={_value(value)}" for key, value in (event.get("data") or {}).items())
    fields = (str(event.get("seq", "-")), when, line(event.get("kind", "-")), line(who), data)
    return "  ".join(field for field in fields if field)


def _value(value: object) -> str:
    """Bare when it is one plain word, else as JSON: a value cannot pose as another field."""
    if isinstance(value, str) and value.isascii() and value.replace("_", "a").isalnum():
        return value
    return line(json.dumps(value, ensure_ascii=False))
