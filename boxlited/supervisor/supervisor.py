"""The supervisor as the API sees it: every command about boxes; queries and executions are in its bases.

Owns the order of its life: recovery first, then the reconcile loop. Its parts are put together in wiring.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import structlog
import trio

from boxlited.errors import (
    BoxlitedError,
    InvalidState,
    NotFound,
    ResourceExhausted,
    Timeout,
)
from boxlited.model import Box, BoxSpec, BoxStatus, EventKind, StopCause
from boxlited.supervisor.apply import Options
from boxlited.supervisor.decide import LIVE_STATUS
from boxlited.supervisor.plans import Request
from boxlited.supervisor.queries import ENDED
from boxlited.supervisor.restarts import Restarts
from boxlited.supervisor.wiring import Wiring
from boxlited.supervisor.worker import in_worker

SIGKILL = 9

log = structlog.get_logger()


class Supervisor(Wiring):
    # -- life ---------------------------------------------------------------------------

    def launch_spawner(self) -> None:
        """Execute the spawner. Call before the first thread exists."""
        self._spawner.launch()

    async def run(
        self, *, database_lost: bool = False, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Recover, report started, serve until cancelled. Shims live on."""
        try:
            await self._run(database_lost, task_status)
        finally:
            self._cgroups.release()

    async def _run(self, database_lost: bool, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._restarts = Restarts(self._ledger, nursery, self._restart_due)
            await nursery.start(self._spawner.run)
            nursery.start_soon(self._watcher.run)
            await self._reconciler.recover(database_lost=database_lost)
            with suppress(ResourceExhausted):  # the housekeeping tries again
                await in_worker(self._directories.delete_removed)
            task_status.started()
            nursery.start_soon(self._reconciler.run)

    @property
    def is_ready(self) -> bool:
        return self._reconciler.is_recovered

    async def stop_all(self, grace_seconds: float, cause: StopCause = StopCause.DRAINED) -> None:
        """Stop every running box, ten at a time; failures are logged and do not end it."""
        limiter = trio.CapacityLimiter(10)
        boxes = [box for box in self._store.boxes.values() if box.status not in (*ENDED, BoxStatus.CONFIGURED)]
        live_on = []

        async def stop_one(box: Box) -> None:
            async with limiter:
                try:
                    await self._transition(box.box_id, Request.STOP, Options(grace_seconds, cause))
                except BoxlitedError as error:
                    live_on.append(box.box_id)
                    log.error("box could not be drained", box_id=box.box_id, error=error.message)

        async with trio.open_nursery() as nursery:
            for box in boxes:
                nursery.start_soon(stop_one, box)
        log.info("boxes were drained", drained=len(boxes) - len(live_on), live_on=live_on)

    # -- commands -----------------------------------------------------------------------

    async def create(self, spec: BoxSpec, *, idempotency_key: str | None = None) -> Box:
        """Create a box; durable before it returns. The same key and spec give the same box."""
        return await self._carry(lambda: self._creator.create(spec, idempotency_key))

    async def stop(self, ref: str, timeout_seconds: float = 30) -> Box:
        """Graceful, then forced. Never spawns; only cleans up when the box does not run."""
        box_id = self.get(ref).box_id
        self._restarts.cancel(box_id)
        return await self._transition(box_id, Request.STOP, Options(timeout_seconds))

    async def restart(self, ref: str, timeout_seconds: float = 30) -> Box:
        """Stop and start. One that is cut between the two goes on: the row says that a run is wanted after the stop."""
        box_id = self.get(ref).box_id
        self._restarts.cancel(box_id)

        async def both() -> Box:
            async with self._ledger.runtime(box_id).locked(timeout_seconds):
                row = await self._settler.settle(box_id, Request.STOP_TO_START, Options(timeout_seconds))
                if row is None:
                    raise InvalidState(f"box {box_id} was removed when it stopped (auto_remove)")
                return await self._settler.demand(box_id, Request.START, Options(timeout_seconds))

        return await self._carry(both)

    async def kill(self, ref: str, signal: int = SIGKILL) -> Box:
        """Deliver a signal to the workload; SIGKILL is a stop without grace."""
        box = self.get(ref)
        if box.status not in LIVE_STATUS:
            raise InvalidState(f"box {box.name} is {box.status.value}: there is nothing to signal")
        if signal == SIGKILL:
            self._restarts.cancel(box.box_id)
            return await self._transition(box.box_id, Request.STOP, Options(0.0))

        async def deliver() -> Box:
            runtime = self._ledger.runtime(box.box_id)
            if runtime.patience.is_asking:  # its stop has the lock, and waits on the pidfd that it verified
                return await send(self._ledger.row(box.box_id))
            async with runtime.lock:
                return await send(await self._settler.demand(box.box_id, Request.ATTACH))

        async def send(row: Box) -> Box:
            handle = self._ledger.runtime(box.box_id).handle
            if handle is not None:
                self._drainer.deliver(row, handle, signal)
                await self._ledger.note(row, EventKind.SIGNALLED, {"signal": signal})
            return row

        return await self._carry(deliver)

    async def remove(self, ref: str, force: bool = False) -> None:
        box_id = self.get(ref).box_id
        request = Request.FORCE_REMOVE if force else Request.REMOVE

        async def remove() -> None:
            async with self._ledger.runtime(box_id).locked(0.0 if force else None):
                await self._settler.settle(box_id, request)

        await self._carry(remove)

    async def wait(self, ref: str, timeout_seconds: float | None) -> Box:
        """Wait until the box has ended; returns its row. Raises Timeout past `timeout_seconds`."""
        box = self.get(ref)
        runtime = self._ledger.runtime(box.box_id)
        last = runtime.ended
        with trio.move_on_after(float("inf") if timeout_seconds is None else timeout_seconds):
            while True:
                current = self._store.get(box.box_id)
                if current is not None and current.status in ENDED:
                    return current
                if runtime.ended is not None and runtime.ended is not last:
                    return runtime.ended
                if current is None:
                    raise NotFound(f"box {box.name} was removed")
                await runtime.changed.wait()
        raise Timeout(f"box {box.name} did not end within {timeout_seconds:g} s; it still runs")

    async def reset_failed(self, ref: str) -> Box:
        """Clear the failure of a box and its restart count: `failed` becomes `stopped`."""
        box_id = self.get(ref).box_id

        async def reset() -> Box:
            async with self._ledger.runtime(box_id).lock:
                box = self._ledger.row(box_id)
                changes: dict[str, Any] = {"restart_count": 0}
                if box.status is BoxStatus.FAILED:
                    changes |= {"status": BoxStatus.STOPPED, "failure_reason": None, "error_kind": None}
                return await self._ledger.write(box, changes, EventKind.RESET)

        return await self._carry(reset)

    async def reconcile(self, dry_run: bool = False) -> list[dict[str, Any]]:
        """One full pass now: what was seen, decided, and (unless `dry_run`) done."""
        if not dry_run:
            for box_id in await self._orphans.scan(database_lost=False):
                log.info("directory gained a row", box_id=box_id)
            await in_worker(self._directories.delete_removed)  # what an earlier try left
        return await self._reconciler.full_pass(dry_run=dry_run)
