"""Plan -> effects. The only place that changes anything about a box.

Called under the box's lock with the sight that the plan was made from. Row changes of one
plan go out in one commit; files are touched after it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from boxlited.errors import InvalidState, ResourceExhausted, Stopped, Timeout
from boxlited.failpoints import hit
from boxlited.model import Box, BoxStatus, Desired, EventKind, IdentityKind, StopCause
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.crash import CrashReport
from boxlited.supervisor.decide import wanted_after_drain
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.exitfile import remove_half
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.observe import Sight
from boxlited.supervisor.pidfile import PidFileWriter, PidRecord
from boxlited.supervisor.plans import Plan, Request, Step
from boxlited.supervisor.reasons import Reasons
from boxlited.supervisor.restarts import Restarts
from boxlited.supervisor.start import Starter, put_away_exit
from boxlited.supervisor.stop import Drainer, dead_event
from boxlited.supervisor.worker import in_worker

LEFTOVERS_SECONDS = 5.0
EVIDENCE_POLL_SECONDS = 0.002

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Options:
    """What a command adds to a plan: how long to ask, and why."""

    grace_seconds: float = 10.0
    cause: StopCause = StopCause.USER
    start_error: str | None = None


class Applier:
    def __init__(
        self,
        kernel: KernelProtocol,
        home: HomeLayout,
        ledger: Ledger,
        cgroups: Cgroups,
        starter: Starter,
        drainer: Drainer,
        reasons: Reasons,
        restarts: Callable[[], Restarts],
    ) -> None:
        self._kernel = kernel
        self._home = home
        self._ledger = ledger
        self._cgroups = cgroups
        self._starter = starter
        self._drainer = drainer
        self._reasons = reasons
        self._restarts = restarts
        self._directories = Directories(home)
        self._boot_id = kernel.boot_id()

    async def apply(self, box: Box, sight: Sight, plan: Plan, request: Request, options: Options) -> Box | None:
        """Carry a plan out; returns the newest row, None when the box was removed.

        Raises InvalidState or Stopped for a refusal (after its clean-up steps), StartFailed,
        Timeout, and storage errors.
        """
        steps = plan.steps
        if plan.warning:
            log.warning(plan.warning, box_id=box.box_id, name=box.name)
        if Step.STASH_EXIT in steps:
            put_away_exit(self._home.box(box.box_id))
            hit("apply.after_stash")
        if Step.RESTORE_PID_FILE in steps:
            self._restore_pid_file(box)
        if Step.AWAIT_EVIDENCE in steps:
            hit("apply.await_evidence")
            await trio.sleep(EVIDENCE_POLL_SECONDS)
        if Step.KILL_LEFTOVERS in steps:
            await self._kill_leftovers(box)
        if Step.DRAIN in steps or Step.DRAIN_NOW in steps:
            grace = 0.0 if Step.DRAIN_NOW in steps else options.grace_seconds
            await self._drain(box, grace, options.cause, wanted_after_drain(box, request))
        box = await self._write_row(box, sight, plan, options)
        if Step.REMOVE_PID_FILE in steps:
            self._remove_pid_file(box)
            hit("apply.after_pid_file")
        await self._schedule(box, plan)
        if plan.refuse is not None:
            dead = request is Request.ATTACH and sight.observation.identity is IdentityKind.ABSENT
            raise Stopped(plan.refuse) if dead else InvalidState(plan.refuse)
        if Step.SPAWN in steps:
            self._restarts().cancel(box.box_id)  # a user was first: the next end begins another delay
            return await self._starter.start(box, plan.restart_count or 0)
        if Step.REMOVE in steps:
            await self._remove(box)
            return None
        return box

    def _remove_pid_file(self, box: Box) -> None:
        """It names a process that has ended. One that stays is harmless, and goes with the next try."""
        try:
            os.unlink(self._home.box(box.box_id).pid_file)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("shim.pid could not be removed, it is tried again", box_id=box.box_id, error=error.strerror)

    def _restore_pid_file(self, box: Box) -> None:
        """The shim wrote it; somebody removed or changed it since. The next daemon finds the shim by it alone."""
        handle, path = self._ledger.runtime(box.box_id).handle, self._home.box(box.box_id).pid_file
        if handle is None:
            return
        try:
            record = PidRecord(handle.pid, self._kernel.proc_stat(handle.pid).start_time)
            handle.signal(0)  # it lives, so what was read is its own and not of the next one with this pid
            with suppress(FileNotFoundError):
                os.unlink(path)  # whatever lies there now, a link or a FIFO too
            PidFileWriter(path).write(record)
        except OSError as error:
            log.error("shim.pid could not be written anew", box_id=box.box_id, error=error.strerror)

    async def _drain(self, box: Box, grace_seconds: float, cause: StopCause, wanted: Desired) -> None:
        runtime = self._ledger.runtime(box.box_id)
        if runtime.handle is not None:
            with suppress(ProcessLookupError):  # it died between the look and the signal
                await self._drainer.drain(
                    box, runtime.handle, dead_event(runtime), grace_seconds, cause, wanted, runtime.patience
                )

    async def _kill_leftovers(self, box: Box) -> None:
        """The shim is gone and its cgroup is not empty: not stopped until it is."""
        with trio.move_on_after(LEFTOVERS_SECONDS):
            while self._may_be_populated(box):
                self._cgroups.kill(box.box_id)
                await trio.sleep(EVIDENCE_POLL_SECONDS)
            return
        raise Timeout(f"processes of box {box.name} remain in its cgroup after SIGKILL; it is tried again")

    def _may_be_populated(self, box: Box) -> bool:
        """Until it is seen to be empty."""
        try:
            return bool(self._cgroups.populated(box.box_id))
        except OSError:
            return True

    async def _write_row(self, box: Box, sight: Sight, plan: Plan, options: Options) -> Box:
        changes: dict[str, Any] = {}
        kind: EventKind | None = None
        data: dict[str, Any] = {}
        for step in plan.steps:
            match step:
                case Step.ADOPT:
                    kind = EventKind.ADOPTED
                    changes |= self._adopted(box, sight)
                    data = {"pid": sight.observation.pid, "identity": sight.observation.identity.value}
                case Step.SETTLE:
                    changes |= self._settled(box, sight, plan, options)
                    kind = EventKind.FAILED if plan.status is BoxStatus.FAILED else EventKind.STOPPED
                    data = {key: _plain(changes[key]) for key in ("stop_cause", "exit_code", "failure_reason")}
                case Step.CLOSE_RUN:
                    changes |= {"run_id": None, "ended_at": time.time(), "ended_boottime": self._kernel.boottime()}
                    changes["boot_id"] = self._boot_id
                    changes["restart_count"] = plan.restart_count
                    kind, data = EventKind.WARNING, {"message": plan.warning}
                case Step.SAY_UNKNOWN:
                    changes |= {"status": BoxStatus.UNKNOWN, "identity": IdentityKind.UNKNOWN}
                    kind, data = EventKind.UNKNOWN, {"errno": sight.observation.errno}
                case Step.WANT_STOPPED:
                    changes["desired"] = Desired.STOPPED
        if plan.warning is not None and changes:
            changes["warning"] = plan.warning
        if not changes:
            return box
        return await self._record(box, sight, plan, changes, kind, data)

    async def _record(
        self,
        box: Box,
        sight: Sight,
        plan: Plan,
        changes: dict[str, Any],
        kind: EventKind | None,
        data: dict[str, Any],
    ) -> Box:
        hit("apply.before_write")
        row = await self._ledger.write(box, changes, kind, data, durable=False)
        hit("apply.after_write")
        if Step.CLOSE_RUN in plan.steps:  # the start may have come as far as the cgroup
            self._cgroups.remove(box.box_id)
        if Step.SETTLE in plan.steps:
            runtime = self._ledger.runtime(box.box_id)
            runtime.ended = row
            runtime.forget_run()
            self._cgroups.remove(box.box_id)
            if box.pid is not None:
                remove_half(self._home.box(box.box_id).exit_file, box.pid)
            log.info("box ended", box_id=box.box_id, name=box.name, **data)
        return row

    def _adopted(self, box: Box, sight: Sight) -> dict[str, Any]:
        seen = sight.observation
        now = self._kernel.boottime()
        fresh = box.started_boottime is None or box.boot_id != self._boot_id
        handle, run_id = self._ledger.runtime(box.box_id).handle, box.run_id  # what is held, not what was closed for it
        if run_id is None and handle is not None:  # its row was lost: the run has its exec and its signals back
            run_id = handle.run_of(box.box_id)
        return {
            "status": BoxStatus.RUNNING,
            "desired": Desired.RUNNING,
            "run_id": run_id,
            "pid": seen.pid,
            "identity": seen.identity,
            "boot_id": self._boot_id,
            "pidfs_inode": handle.inode if handle is not None else None,
            "started_at": time.time() if fresh else box.started_at,
            "started_boottime": now if fresh else box.started_boottime,
            "used_boottime": now,
            "ended_at": None,
            "ended_boottime": None,
            "stop_cause": None,
            "failure_reason": None,
            "exit_code": None,
            "exit_signal": None,
            "error_kind": None,
            "warning": None,
        }

    def _settled(self, box: Box, sight: Sight, plan: Plan, options: Options) -> dict[str, Any]:
        report: CrashReport | None = None
        if plan.status is BoxStatus.FAILED and plan.cause is not StopCause.DIRECTORY_MISSING:
            report = self._reasons.report(box, sight, plan.cause)
        reason = options.start_error or (report.user_message if report is not None else None)
        if plan.cause is StopCause.DIRECTORY_MISSING:
            reason = "box directory is missing: somebody removed it. Remove the box and create it anew"
        info = sight.own_exit
        seen = sight.observation
        return {
            "status": plan.status,
            "stop_cause": plan.cause,
            "failure_reason": reason,
            "exit_code": info.exit_code if info is not None else _shim_exit_code(sight),
            "exit_signal": info.signal if info is not None else seen.shim_signal,
            "error_kind": report.error_kind if report is not None else None,
            "ended_at": time.time(),
            "ended_boottime": self._kernel.boottime(),
            "boot_id": self._boot_id,
            "pid": None,
            "identity": IdentityKind.ABSENT,
            "restart_count": plan.restart_count if plan.restart_count is not None else box.restart_count,
        }

    async def _schedule(self, box: Box, plan: Plan) -> None:
        if Step.SCHEDULE_RESTART in plan.steps:
            delay = self._restarts().schedule(box)
            if delay is not None:
                await self._ledger.note(
                    box,
                    EventKind.RESTARTING,
                    {"in_seconds": round(delay, 3), "restart_count": box.restart_count},
                )
        if Step.GIVE_UP in plan.steps:
            await self._ledger.note(box, EventKind.GAVE_UP, {"restart_count": box.restart_count})

    async def _remove(self, box: Box) -> None:
        """Intent, rename, delete the row, delete the files: each step is resumable."""
        if box.desired is not Desired.REMOVED:
            box = await self._ledger.write(box, {"desired": Desired.REMOVED})
        hit("remove.after_intent")
        self._restarts().cancel(box.box_id)
        self._directories.remove(box.box_id, f"{time.time_ns():x}")
        hit("remove.after_rename")
        self._cgroups.remove(box.box_id)
        await self._ledger.delete(box)
        hit("remove.after_delete")
        with suppress(ResourceExhausted):  # the housekeeping tries again
            await in_worker(self._directories.delete_removed)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StopCause) else value


def _shim_exit_code(sight: Sight) -> int | None:
    status = sight.shim_status
    if status is None:
        return None
    return 128 + status.signal if status.signal is not None else status.code
