"""What can be asked of the supervisor: boxes, reasons, logs, figures, events. Reads memory, changes nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import trio

from boxlited.config import Config
from boxlited.errors import NotFound
from boxlited.model import Box, BoxID, BoxStatus, Event, check_name
from boxlited.store.store import Store
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.crash import CrashReport
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.logs import LogReader
from boxlited.supervisor.paging import page_of
from boxlited.supervisor.reasons import Reasons
from boxlited.supervisor.spawn import Spawner
from boxlited.supervisor.usage import UsageReader

ENDED = frozenset({BoxStatus.STOPPED, BoxStatus.FAILED})


class Queries:
    """Half of the supervisor; the other half sets the parts that are named here."""

    _config: Config
    _home: HomeLayout
    _store: Store
    _cgroups: Cgroups
    _ledger: Ledger
    _spawner: Spawner
    _reasons: Reasons
    _usage: UsageReader

    def get(self, ref: str) -> Box:
        """A box by id or name. Raises InvalidArgument for what can be neither, NotFound."""
        if not BoxID.is_valid(ref):
            check_name(ref)
        box = self._store.get(BoxID(ref)) if BoxID.is_valid(ref) else self._store.by_name(ref)
        if box is None:
            raise NotFound(f"there is no box {ref[:100]!r}")
        return box

    def unrecorded(self) -> frozenset[BoxID]:
        """Boxes whose newest changes would be lost with the daemon, for the disk takes no writes."""
        return self._store.unrecorded

    def list_boxes(
        self, status: BoxStatus | None, page_size: int, page_token: str | None
    ) -> tuple[list[Box], str | None]:
        """One page, oldest first, and the token of the next. Raises InvalidArgument for a foreign token."""
        rows = [box for box in self._store.boxes.values() if status is None or box.status is status]
        return page_of(rows, page_size, page_token)

    def crash(self, ref: str, previous: bool = False) -> CrashReport:
        box = self.get(ref)
        report = self._reasons.previous(box) if previous else self._reasons.active(box)
        if report is None:
            which = "the lifecycle before" if previous else "its last run"
            raise NotFound(f"box {box.name} has no crash recorded for {which}")
        return report

    def console_log(self, ref: str) -> LogReader:
        box = self.get(ref)
        box_id = box.box_id

        def still_open() -> bool:
            now = self._store.get(box_id)
            return now is not None and now.status not in (*ENDED, BoxStatus.CONFIGURED)

        return LogReader(self._home.box(box_id).console_log, still_open)

    async def box_metrics(self, ref: str) -> dict[str, Any]:
        box = self.get(ref)
        runtime = self._ledger.runtime(box.box_id)
        counters = {"commands_executed_total": runtime.commands, "exec_errors_total": runtime.exec_errors}
        return {**self._usage.read(box), **counters}

    def metrics(self) -> dict[str, Any]:
        counters = self._ledger.counters
        by_status = dict.fromkeys((status.value for status in BoxStatus), 0)
        for box in self._store.boxes.values():
            by_status[box.status.value] += 1
        return {
            "boxes_created_total": counters["created"],
            "boxes_started_total": counters["started"],
            "boxes_stopped_total": counters["stopped"],
            "boxes_failed_total": counters["failed"],
            "boxes_adopted_total": counters["adopted"],
            "boxes_removed_total": counters["removed"],
            "restarts_total": counters["policy_restarts"],
            "reconcile_passes_total": counters["reconcile_passes"],
            "spawner_restarts_total": self._spawner.restarts,
            "total_commands_executed": counters["commands_executed"],
            "total_exec_errors": counters["exec_errors"],
            "boxes_running": by_status[BoxStatus.RUNNING.value],
            "boxes_by_status": by_status,
            "events_last_seq": self.last_event_seq,
            "pending_writes": self._store.pending_writes,
            "store": self._store.stats(),
        }

    def capabilities(self) -> dict[str, Any]:
        return {
            "engines": sorted({*self._config.engines.enabled, *self._config.engines.external}),
            "default_engine": self._config.engines.default,
            "limits": sorted(self._cgroups.supports),
            "limits_mode": self._config.limits.mode,
        }

    @property
    def last_event_seq(self) -> int:
        return self._store.last_event_seq

    async def events_since(self, seq: int, limit: int) -> list[Event]:
        return await self._store.events_since(seq, limit)

    def subscribe_events(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        return self._store.subscribe()
