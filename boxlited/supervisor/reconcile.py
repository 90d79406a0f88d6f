"""The reconcile loop; recovery is its first pass.

Events wake, the period only bounds: each period drains the epoll, looks anew at a slice of
the table (all of it within `FULL_SWEEP_PASSES` periods), and applies the lifetimes
auto_stop and auto_delete. Failures of one box stay with that box.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import structlog
import trio

from boxlited.config import Config
from boxlited.errors import BoxlitedError, NotFound, StartupError
from boxlited.failpoints import hit
from boxlited.model import Box, BoxID, BoxStatus, Desired, IdentityKind, StopCause
from boxlited.supervisor.apply import Options
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.decide import decide, is_run_open
from boxlited.supervisor.housekeeping import Housekeeper
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.orphans import Orphans
from boxlited.supervisor.plans import Plan, Request, Step
from boxlited.supervisor.settle import Settler
from boxlited.supervisor.watch import Watcher

FULL_SWEEP_PASSES = 12
HOUSEKEEPING_PASSES = 12
EX_IOERR = 74

log = structlog.get_logger()


class Reconciler:
    def __init__(
        self,
        config: Config,
        kernel: KernelProtocol,
        ledger: Ledger,
        settler: Settler,
        orphans: Orphans,
        housekeeper: Housekeeper,
        watcher: Watcher,
        cgroups: Cgroups,
        background: Callable[[BoxID, Request, Options], None],
        stop_when_idle: Callable[[Box, Options], None],
    ) -> None:
        self._config = config
        self._kernel = kernel
        self._ledger = ledger
        self._settler = settler
        self._orphans = orphans
        self._housekeeper = housekeeper
        self._watcher = watcher
        self._cgroups = cgroups
        self._background = background
        self._stop_when_idle = stop_when_idle
        self._boot_id = kernel.boot_id()
        self._random = random.Random()
        self.passes = 0
        self._is_tidy = True
        self.is_recovered = False

    async def recover(self, *, database_lost: bool) -> None:
        """The first pass: every row and every directory. The API must not answer before it ends.

        Raises StartupError when rows are to be made of directories that cannot be looked at.
        """
        hit("recover.begin")
        gained = await self._first_scan(database_lost)
        hit("recover.after_scan")
        entries = await self.full_pass(dry_run=False)
        self.is_recovered = True
        acted = [entry for entry in entries if entry["action"] != "none"]
        log.info("recovered", boxes=len(entries), acted=len(acted), directories_gained=len(gained))

    async def _first_scan(self, database_lost: bool) -> list[BoxID]:
        try:
            return await self._orphans.scan(database_lost=database_lost)
        except BoxlitedError as error:
            if database_lost:
                raise StartupError(error.message, EX_IOERR) from error
            log.error("the directories are looked through later", error=error.message)
            return []

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            period = self._config.reconcile.period_seconds
            jitter = self._config.reconcile.jitter
            await trio.sleep(period * (1 - jitter + 2 * jitter * self._random.random()))
            await self._periodic_pass()

    async def _periodic_pass(self) -> None:
        self.passes += 1
        self._ledger.counters["reconcile_passes"] += 1
        self._watcher.poll()
        try:
            await self._ledger.store.retry_pending()
        except BoxlitedError as error:
            log.warning("writes are still pending", error=error.message)
        for box in self._slice():
            await self._pass_one(box, dry_run=False)
        self._expire()
        if self.passes % HOUSEKEEPING_PASSES == 0 or not self._is_tidy:
            self._tidy_cgroups()
        if self.passes % HOUSEKEEPING_PASSES == 0:
            for box_id in await self._housekeeper.tidy():
                self._background(box_id, Request.RECONCILE, Options())

    def _slice(self) -> list[Box]:
        """The part of the table whose turn it is, and every box that is not at rest."""
        turn = self.passes % FULL_SWEEP_PASSES
        return [
            box
            for index, box in enumerate(self._ledger.store.boxes.values())
            if index % FULL_SWEEP_PASSES == turn or not _at_rest(box)
        ]

    async def full_pass(self, *, dry_run: bool) -> list[dict[str, Any]]:
        """Look at every box now. Says what was seen, decided and done for each."""
        entries = []
        for number, box in enumerate(list(self._ledger.store.boxes.values())):
            entries.append(await self._pass_one(box, dry_run=dry_run))
            if number % 32 == 31:
                await trio.lowlevel.checkpoint()
        if not dry_run:
            self._tidy_cgroups()
        return entries

    def _tidy_cgroups(self) -> None:
        """After the look at the boxes: until then a cgroup may hold the evidence of a death."""
        boxes = self._ledger.store.boxes.values()
        self._is_tidy = self._cgroups.tidy({box.box_id for box in boxes if is_run_open(box)})

    async def _pass_one(self, box: Box, *, dry_run: bool) -> dict[str, Any]:
        runtime = self._ledger.runtime(box.box_id)
        if runtime.lock.locked():
            return _entry(box, None, None, "busy")
        async with runtime.lock:
            try:
                return await self._look_at(self._ledger.row(box.box_id), dry_run=dry_run)
            except NotFound:
                return _entry(box, None, None, "removed")
            except BoxlitedError as error:
                log.error("box could not be settled", box_id=box.box_id, error=error.message)
                return _entry(box, None, None, f"failed: {error.message}")
            except Exception:  # a bug that one box meets must not take the daemon from the others
                log.exception("bug while looking at a box", box_id=box.box_id)
                return _entry(box, None, None, "failed: a bug; see the daemon's log")

    async def _look_at(self, box: Box, *, dry_run: bool) -> dict[str, Any]:
        if dry_run:
            seen, plan = self._settler.peek(box)
            return _entry(box, seen.identity, plan, plan.action)
        sight = self._settler.look(box)
        plan = decide(box, sight.observation)
        if not plan.steps:
            return _entry(box, sight.observation.identity, plan, "none")
        if Step.DRAIN in plan.steps or Step.DRAIN_NOW in plan.steps:
            grace = Options(grace_seconds=self._config.stop.default_timeout_seconds)
            self._background(box.box_id, Request.RECONCILE, grace)  # others do not wait for it
        else:
            await self._settler.settle(box.box_id, Request.RECONCILE)
        return _entry(box, sight.observation.identity, plan, plan.action)

    def _expire(self) -> None:
        """Apply auto_stop (idle seconds while running) and auto_delete (seconds after the end)."""
        now = self._kernel.boottime()
        for box in self._ledger.store.boxes.values():
            spec = box.spec
            if spec.auto_stop and self._is_idle(box, now, spec.auto_stop):
                grace = self._config.stop.default_timeout_seconds
                self._stop_when_idle(box, Options(grace_seconds=grace, cause=StopCause.AUTO_STOP))
            elif spec.auto_delete and self._is_over(box, now, spec.auto_delete):
                self._background(box.box_id, Request.REMOVE, Options())

    def _is_idle(self, box: Box, now: float, seconds: float) -> bool:
        if box.status is not BoxStatus.RUNNING or box.boot_id != self._boot_id:
            return False
        return box.used_boottime is not None and now - box.used_boottime >= seconds

    def _is_over(self, box: Box, now: float, seconds: float) -> bool:
        if box.status not in (BoxStatus.STOPPED, BoxStatus.FAILED) or box.desired is not Desired.STOPPED:
            return False
        since = box.ended_boottime if box.boot_id == self._boot_id else 0.0
        return now - (since or 0.0) >= seconds


def _at_rest(box: Box) -> bool:
    return (
        box.status in (BoxStatus.RUNNING, BoxStatus.CONFIGURED, BoxStatus.STOPPED, BoxStatus.FAILED)
        and (box.status is BoxStatus.RUNNING) == (box.desired is Desired.RUNNING)
        and box.desired is not Desired.RESTARTED
    )


def _entry(box: Box, identity: IdentityKind | None, plan: Plan | None, action: str) -> dict[str, Any]:
    return {
        "box_id": box.box_id,
        "name": box.name,
        "status": box.status.value,
        "identity": identity.value if identity is not None else None,
        "action": action,
        "warning": plan.warning if plan is not None else None,
    }
