"""The loop that everything hangs on: observe, decide, apply, until the request is met.

Recovery, the periodic pass, a fired pidfd, and every command go through `Settler.settle`.
There is no second path that decides what a box's state is.
"""

from __future__ import annotations

import trio

from boxlited.errors import BoxlitedError, Internal
from boxlited.model import Box, BoxID
from boxlited.supervisor.apply import Applier, Options
from boxlited.supervisor.decide import decide, decide_start_failed, is_run_open
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.observe import Observer, Sight
from boxlited.supervisor.plans import Observation, Plan, Request
from boxlited.supervisor.start import StartFailed, error_of_kind
from boxlited.supervisor.stop import Drainer, dead_event
from boxlited.supervisor.watch import Watcher

LAST_WORDS_SECONDS = 0.5
MAX_ROUNDS = 2000  # a round that waits for evidence takes 2 ms, so this bounds a settlement


class Settler:
    """Each method expects that the caller holds the box's lock."""

    def __init__(
        self, ledger: Ledger, observer: Observer, applier: Applier, drainer: Drainer, watcher: Watcher
    ) -> None:
        self._ledger = ledger
        self._observer = observer
        self._applier = applier
        self._drainer = drainer
        self._watcher = watcher

    async def settle(self, box_id: BoxID, request: Request, options: Options | None = None) -> Box | None:
        """Bring a box to where the request and its row want it; None when it was removed.

        Raises what `apply` raises. A failed start is settled first, then raised.
        """
        chosen = options or Options()
        for _ in range(MAX_ROUNDS):
            box = self._ledger.row(box_id)
            sight = self.look(box)
            plan = decide(box, sight.observation, request)
            try:
                row = await self._applier.apply(box, sight, plan, request, chosen)
            except StartFailed as failure:
                await self._start_failed(failure, request)
                raise failure.cause from failure
            if row is None or not plan.again:
                return row
        raise Internal(f"box {box_id} did not settle; this is a bug: please report it with the daemon's log")

    def look(self, box: Box) -> Sight:
        """Observe a box and take over the pidfd of its live shim."""
        runtime = self._ledger.runtime(box.box_id)
        sight = self._observer.observe(box, runtime)
        if sight.handle is not None:
            self.hold(box.box_id, sight.handle)
        elif runtime.handle is not None and runtime.died_at is not None and not is_run_open(box):
            runtime.forget_run()  # it was accounted for, and something failed right after
        return sight

    def peek(self, box: Box) -> tuple[Observation, Plan]:
        """Observe and decide without any effect, for a dry run."""
        runtime = self._ledger.runtime(box.box_id)
        passes = runtime.unknown_passes
        sight = self._observer.observe(box, runtime)
        runtime.unknown_passes = passes
        if sight.handle is not None:
            sight.handle.close()
        return sight.observation, decide(box, sight.observation, Request.RECONCILE)

    def hold(self, box_id: BoxID, handle: PidfdHandle) -> None:
        """Keep and watch a verified handle; one that is held already is closed."""
        runtime = self._ledger.runtime(box_id)
        held = runtime.handle
        if held is not None:
            if (held.pid, held.inode) == (handle.pid, handle.inode) and runtime.died_at is None:
                handle.close()
                return
            runtime.forget_run()
        runtime.handle = handle
        self._observer.owners[handle.pid] = box_id
        runtime.dead = trio.Event()
        runtime.shim_status = None
        runtime.died_at = None
        self._watcher.add(box_id, handle.pidfd)

    async def _start_failed(self, failure: StartFailed, request: Request) -> None:
        """Account for a start that did not succeed: no process is left, the row says why."""
        box_id = failure.box.box_id
        await self._end_half_started(box_id)
        box = self._ledger.row(box_id)
        sight = self.look(box)
        plan = decide_start_failed(box, sight.observation, by_policy=request is Request.RESTART)
        said = None if failure.silent else failure.cause.message
        row = await self._applier.apply(box, sight, plan, request, Options(start_error=said))
        if failure.silent and plan.steps and row is not None and row.failure_reason is not None:
            failure.cause = error_of_kind(row.error_kind, row.failure_reason)

    async def _end_half_started(self, box_id: BoxID) -> None:
        box = self._ledger.row(box_id)
        runtime = self._ledger.runtime(box_id)
        sight = self.look(box)
        if not sight.observation.alive or runtime.handle is None:
            return
        with trio.move_on_after(LAST_WORDS_SECONDS):  # it said that it failed: it ends by itself, and may say why
            await dead_event(runtime).wait()
            return
        try:
            await self._drainer.force(box, runtime.handle, dead_event(runtime))
        except BoxlitedError:  # it hangs in the kernel: the plan below then changes nothing
            return

    async def demand(self, box_id: BoxID, request: Request, options: Options | None = None) -> Box:
        """`settle` for commands that leave a box behind."""
        row = await self.settle(box_id, request, options)
        return row if row is not None else self._ledger.row(box_id)
