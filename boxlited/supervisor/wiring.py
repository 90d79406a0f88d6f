"""The parts of a supervisor: which there are, who holds whom, and what they call back.

Holds the nursery of their tasks. A command runs in that nursery, so a client that goes away never leaves a
transition half done; what the watcher, a timer or the spawner reports is settled there too. Commands: supervisor.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog
import trio

from boxlited.config import Config
from boxlited.errors import (
    BoxlitedError,
    Internal,
    NotFound,
    ResourceExhausted,
)
from boxlited.model import Box, BoxID, BoxStatus
from boxlited.store.store import Store
from boxlited.supervisor.apply import Applier, Options
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.create import Creator
from boxlited.supervisor.decide import execution_plan
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.engines import OWN_ENGINES, Engines
from boxlited.supervisor.executing import Executing
from boxlited.supervisor.executions import Executions
from boxlited.supervisor.housekeeping import Housekeeper
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.kernel import ExitStatus, KernelProtocol
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.observe import Observer
from boxlited.supervisor.orphans import Orphans
from boxlited.supervisor.plans import Request
from boxlited.supervisor.queries import Queries
from boxlited.supervisor.reasons import Reasons
from boxlited.supervisor.reconcile import Reconciler
from boxlited.supervisor.restarts import Restarts
from boxlited.supervisor.settle import Settler
from boxlited.supervisor.spawn import Spawner
from boxlited.supervisor.start import Starter
from boxlited.supervisor.stop import Drainer
from boxlited.supervisor.transfers import Transfers
from boxlited.supervisor.usage import UsageReader
from boxlited.supervisor.watch import Watcher

T = TypeVar("T")

log = structlog.get_logger()


class Wiring(Queries, Executing):
    def __init__(
        self,
        config: Config,
        kernel: KernelProtocol,
        home: HomeLayout,
        store: Store,
        cgroups: Cgroups,
        lock_fd: int,
        rlimits: Mapping[str, tuple[int, int]],
        control_key: bytes,
    ) -> None:
        """`lock_fd` is the home's lock, which the spawner shares; `rlimits` are those of every shim (soft, hard);
        `control_key` is the home's secret, see controlkey.py."""
        self._config = config
        self._kernel = kernel
        self._home = home
        self._store = store
        self._cgroups = cgroups
        self._watcher = Watcher(self._on_death)
        self._spawner = Spawner(lock_fd, self._on_exited)
        self._observer = Observer(kernel, home, cgroups, lambda: self._spawner.pid)
        self._ledger = Ledger(store, self._release)
        self._executions = Executions(kernel, home, self._ledger, control_key, self.attach, self.start, self._look)
        limits = {"max_bytes": config.files.max_bytes, "max_entries": config.files.max_entries}
        self._transfers = Transfers(self._executions, limits)
        self._engines = Engines(config, cgroups, home, self._executions.run_key)
        self._reasons = Reasons(home)
        self._usage = UsageReader(kernel, cgroups)
        self._directories = Directories(home)
        self._drainer = Drainer(self._ledger, OWN_ENGINES)
        self._starter = Starter(
            kernel,
            home,
            self._ledger,
            self._spawner,
            self._engines,
            cgroups,
            self._hold,
            rlimits,
        )
        applier = Applier(
            kernel,
            home,
            self._ledger,
            cgroups,
            self._starter,
            self._drainer,
            self._reasons,
            lambda: self._restarts,
        )
        self._settler = Settler(self._ledger, self._observer, applier, self._drainer, self._watcher)
        self._orphans = Orphans(home, self._ledger, self._observer, self._directories)
        self._reconciler = Reconciler(
            config,
            kernel,
            self._ledger,
            self._settler,
            self._orphans,
            Housekeeper(config, home, self._ledger, self._orphans, self._directories),
            self._watcher,
            cgroups,
            self._in_background,
            self._stop_when_idle,
        )
        self._creator = Creator(config, self._ledger, self._engines, self._directories, self._orphans.creating)
        self._nursery: trio.Nursery
        self._restarts: Restarts

    # -- commands that executions give, too ---------------------------------------------

    async def start(self, ref: str) -> Box:
        box = self.get(ref)
        execution_plan(box.status)
        self._check_room(box)
        return await self._transition(box.box_id, Request.START, Options(self._grace))

    async def attach(self, ref: str) -> Box:
        """The box, proven alive through `shim.pid`. Raises Stopped with the crash cause otherwise."""
        box = self.get(ref)
        return await self._transition(box.box_id, Request.ATTACH)

    # -- inside -------------------------------------------------------------------------

    @property
    def _grace(self) -> float:
        return self._config.stop.default_timeout_seconds

    def _check_room(self, box: Box) -> None:
        limit = self._config.limits.max_running
        if limit is None or box.status is BoxStatus.RUNNING:
            return
        running = sum(1 for row in self._store.boxes.values() if row.status is BoxStatus.RUNNING)
        if running >= limit:
            raise ResourceExhausted(f"{running} boxes run and limits.max_running is {limit}: stop one first")

    async def _transition(self, box_id: BoxID, request: Request, options: Options | None = None) -> Box:
        async def locked() -> Box:
            runtime = self._ledger.runtime(box_id)
            grace = options.grace_seconds if options is not None and request is Request.STOP else None
            async with runtime.locked(grace):
                row = await self._settler.settle(box_id, request, options)
                return row or runtime.ended or self._ledger.row(box_id)

        return await self._carry(locked)

    async def _carry(self, command: Callable[[], Awaitable[T]]) -> T:
        """Run a command to its end in the supervisor's nursery, whatever becomes of the caller."""
        done = trio.Event()
        outcome: list[T] = []
        problem: list[Exception] = []

        async def run() -> None:
            try:
                outcome.append(await command())
            except Exception as error:  # also a bug: it belongs to this caller, not to the daemon
                problem.append(error)
            finally:
                done.set()

        try:
            self._nursery.start_soon(run)
        except RuntimeError as error:  # the nursery has ended, and the API ends next
            raise Internal("the daemon is shutting down: retry in a moment") from error
        await done.wait()
        if problem:
            raise problem[0]
        if not outcome:
            raise Internal("the daemon is shutting down; the command was not finished")
        return outcome[0]

    async def _look(self, box_id: BoxID) -> None:
        await self._settle_quietly(box_id, Request.RECONCILE, Options(self._grace))

    def _release(self, handle: PidfdHandle) -> None:
        self._watcher.discard(handle.pidfd)
        self._observer.owners.pop(handle.pid, None)

    def _hold(self, box_id: BoxID, handle: PidfdHandle) -> None:
        self._settler.hold(box_id, handle)

    def _in_background(self, box_id: BoxID, request: Request, options: Options) -> None:
        self._nursery.start_soon(self._settle_quietly, box_id, request, options)

    def _stop_when_idle(self, box: Box, options: Options) -> None:
        """auto_stop: unless a command runs in the box."""

        async def stop() -> None:
            if not await self._executions.is_busy(box):
                await self._settle_quietly(box.box_id, Request.STOP, options)

        self._nursery.start_soon(stop)

    async def _settle_quietly(self, box_id: BoxID, request: Request, options: Options | None = None) -> None:
        async with self._ledger.runtime(box_id).lock:
            try:
                await self._settler.settle(box_id, request, options)
            except NotFound:
                return
            except BoxlitedError as error:
                log.warning("box could not be settled", box_id=box_id, request=request.value, error=error.message)
            except Exception:  # a bug that one box meets must not take the daemon from the others
                log.exception("bug while settling a box", box_id=box_id, request=request.value)

    async def _restart_due(self, box_id: BoxID) -> None:
        self._ledger.counters["policy_restarts"] += 1
        await self._settle_quietly(box_id, Request.RESTART)

    def _on_death(self, box_id: BoxID, pidfd: int) -> None:
        runtime = self._ledger.runtime(box_id)
        if runtime.handle is None or runtime.handle.pidfd != pidfd:
            return
        runtime.died_at = trio.current_time()
        if runtime.dead is not None:
            runtime.dead.set()
        self._in_background(box_id, Request.RECONCILE, Options())

    def _on_exited(self, seq: int, pid: int, status: ExitStatus) -> None:
        box_id = self._starter.box_of(seq)
        if box_id is None:
            return
        runtime = self._ledger.runtime(box_id)
        if runtime.handle is not None and runtime.handle.pid == pid:
            runtime.shim_status = status
