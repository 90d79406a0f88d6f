"""Every write of a box's row goes through here: store first, then whoever waits, then counters.

Owns the runtimes (what is held of each box in memory) and the counters. The store commits
before anything is published.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from boxlited.errors import NotFound
from boxlited.model import Box, BoxID, EventDraft, EventKind
from boxlited.store.store import Store
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.runtime import BoxRuntime


class Ledger:
    def __init__(self, store: Store, release: Callable[[PidfdHandle], None]) -> None:
        self.store = store
        self._release = release
        self.counters: Counter[str] = Counter()
        self._runtimes: dict[BoxID, BoxRuntime] = {}

    def runtime(self, box_id: BoxID) -> BoxRuntime:
        runtime = self._runtimes.get(box_id)
        if runtime is None:
            runtime = self._runtimes[box_id] = BoxRuntime(box_id, self._release)
        return runtime

    def runtimes(self) -> list[BoxRuntime]:
        return list(self._runtimes.values())

    def row(self, box_id: BoxID) -> Box:
        """The newest row. Raises NotFound when the box was removed meanwhile."""
        box = self.store.get(box_id)
        if box is None:
            raise NotFound(f"there is no box {box_id}: it was removed")
        return box

    async def write(
        self,
        box: Box,
        changes: Mapping[str, Any],
        kind: EventKind | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        durable: bool = True,
    ) -> Box:
        """Change named columns of a row and publish an event, in one commit.

        With `durable` False a full disk does not stop it: memory changes, the write is retried.
        """
        event = None
        if kind is not None:
            event = EventDraft(kind=kind, box_id=box.box_id, name=box.name, data=dict(data or {}))
        stamped = {**changes, "updated_at": time.time()}
        row = await self.store.update(box.box_id, stamped, event, must_be_durable=durable)
        if kind is not None:
            self.counters[kind.value] += 1
        self.runtime(box.box_id).notify()
        return row

    async def note(self, box: Box, kind: EventKind, data: Mapping[str, Any]) -> None:
        """Publish an event that changes no row."""
        draft = EventDraft(kind=kind, box_id=box.box_id, name=box.name, data=dict(data))
        await self.store.append_event(draft)

    async def delete(self, box: Box) -> None:
        """Delete the row; the event `removed` carries the last exit code."""
        draft = EventDraft(
            kind=EventKind.REMOVED,
            box_id=box.box_id,
            name=box.name,
            data={"exit_code": box.exit_code, "status": box.status.value},
        )
        await self.store.delete(box.box_id, draft)
        self.counters["removed"] += 1
        runtime = self._runtimes.pop(box.box_id, None)
        if runtime is not None:
            runtime.forget_run()
            runtime.notify()
