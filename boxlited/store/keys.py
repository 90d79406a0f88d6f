"""Idempotency keys of earlier creates, bounded by age and by number."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from boxlited.model import BoxID
from boxlited.store.connection import Statement

MAX_KEYS = 10_000
KEY_SECONDS = 86400.0

_SELECT = "SELECT key, box_id, fingerprint, at FROM idempotency WHERE at > ? ORDER BY at DESC LIMIT ?"
_INSERT = "INSERT OR REPLACE INTO idempotency (key, box_id, fingerprint, at) VALUES (?, ?, ?, ?)"
_DELETE = "DELETE FROM idempotency WHERE at <= ? OR key NOT IN (SELECT key FROM idempotency ORDER BY at DESC LIMIT ?)"


class Keys:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[BoxID, str, float]] = {}  # oldest first

    def load(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(_SELECT, (self._clock() - KEY_SECONDS, MAX_KEYS)).fetchall()
        self._known = {key: (BoxID(box_id), print_, at) for key, box_id, print_, at in reversed(rows)}

    def get(self, key: str) -> tuple[BoxID, str] | None:
        known = self._known.get(key)
        if known is None or known[2] <= self._clock() - KEY_SECONDS:
            return None
        return known[0], known[1]

    def statement(self, key: str, box_id: BoxID, fingerprint: str) -> Statement:
        return _INSERT, (key, str(box_id), fingerprint, self._clock())

    def put(self, key: str, box_id: BoxID, fingerprint: str) -> None:
        self._known.pop(key, None)
        self._known[key] = (box_id, fingerprint, self._clock())
        if len(self._known) > MAX_KEYS:
            del self._known[next(iter(self._known))]

    def prune(self) -> Statement:
        """Forget what is too old; returns the statement that does so in the table."""
        limit = self._clock() - KEY_SECONDS
        self._known = {key: known for key, known in self._known.items() if known[2] > limit}
        return _DELETE, (limit, MAX_KEYS)
