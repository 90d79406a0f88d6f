"""What happened and could not be written yet: merged by box, bounded, carried by the next commit.

Its changes are in memory already; its events have no number and were not published. Only
writes that failed for a passing reason get here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from boxlited.model import BoxID
from boxlited.store.codec import Entry, update_statement
from boxlited.store.connection import Statement

MAX_ENTRIES = 10_000  # a full disk can last for days: the oldest events are given up first


class Backlog:
    def __init__(self) -> None:
        self._changes: dict[BoxID, dict[str, Any]] = {}
        self.entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)

    def __len__(self) -> int:
        return len(self._changes) + len(self.entries)

    def add(self, box_id: BoxID | None, changes: Mapping[str, Any], entry: Entry | None) -> None:
        if box_id is not None:
            self._changes.setdefault(box_id, {}).update(changes)
        if entry is not None:
            self.entries.append(entry)

    def boxes(self) -> frozenset[BoxID]:
        return frozenset(self._changes)

    def statements(self) -> list[Statement]:
        return [update_statement(changes, box_id) for box_id, changes in self._changes.items()]

    def clear(self) -> None:
        self._changes.clear()
        self.entries.clear()
