"""Bringing a box to run: intent row, cgroup, spawn, ready line, row `running`.

Owns the order of a start. Is called only by `apply` on a plan that proved the shim Absent,
under the box's lock. A failure leaves no process and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio

from boxlited.errors import (
    BY_CODE,
    BoxlitedError,
    EngineUnavailable,
    InvalidArgument,
    Unsupported,
)
from boxlited.failpoints import hit
from boxlited.model import Box, BoxID, BoxStatus, Desired, EventKind, IdentityKind, mint_run_id
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.directories import Directories
from boxlited.supervisor.engines import Engines
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.spawn import Spawned, Spawner, SpawnRequest, read_ready

READY_DEADLINE_SECONDS = 30.0

log = structlog.get_logger()


class StartFailed(Exception):
    """The start did not succeed; `cause` is what the caller of the API is told."""

    def __init__(self, box: Box, cause: BoxlitedError) -> None:
        super().__init__(cause.message)
        self.box = box
        self.cause = cause


class Starter:
    def __init__(
        self,
        kernel: KernelProtocol,
        home: HomeLayout,
        ledger: Ledger,
        spawner: Spawner,
        engines: Engines,
        cgroups: Cgroups,
        watch: Callable[[BoxID, PidfdHandle], None],
        rlimits: Mapping[str, tuple[int, int]],
    ) -> None:
        self._kernel = kernel
        self._home = home
        self._ledger = ledger
        self._spawner = spawner
        self._engines = engines
        self._cgroups = cgroups
        self._watch = watch
        self._rlimits = rlimits
        self._directories = Directories(home)
        self._boxes_by_seq: dict[int, BoxID] = {}
        self._boot_id = kernel.boot_id()

    def box_of(self, seq: int) -> BoxID | None:
        """Which box a spawn was for; asked once, when its shim was reaped."""
        return self._boxes_by_seq.pop(seq, None)

    async def start(self, box: Box, restart_count: int) -> Box:
        """Spawn the shim and wait until its workload is alive.

        Raises StartFailed with the newest row. Cancellation leaves the intent row; the next
        observation settles it.
        """
        run_id = mint_run_id()
        box = await self._record_intent(box, run_id, restart_count)
        hit("start.after_intent")
        try:
            spawned, not_applied = await self._spawn(box, run_id)
        except BoxlitedError as error:
            raise StartFailed(self._ledger.row(box.box_id), error) from error
        hit("start.after_spawn")
        message = await self._await_ready(box, spawned)
        hit("start.after_ready")
        return await self._record_running(box, spawned, not_applied, message)

    async def _record_intent(self, box: Box, run_id: str, restart_count: int) -> Box:
        changes = {
            "desired": Desired.RUNNING,
            "run_id": run_id,
            "boot_id": self._boot_id,
            "pid": None,
            "pidfs_inode": None,
            "started_at": None,
            "started_boottime": None,
            "ended_at": None,
            "ended_boottime": None,
            "restart_count": restart_count,
        }
        return await self._ledger.write(
            box, changes, EventKind.STARTING, {"run_id": run_id, "restart_count": restart_count}
        )

    async def _spawn(self, box: Box, run_id: str) -> tuple[Spawned, tuple[str, ...]]:
        layout = self._home.box(box.box_id)
        self._directories.prepare_run(layout)
        spec = box.spec
        setup = self._cgroups.prepare(box.box_id, run_id, cpus=spec.cpus, memory_mib=spec.memory_mib, pids=spec.pids)
        request = SpawnRequest(
            pid_file=str(layout.pid_file),
            spec=self._engines.shim_spec(box, run_id, layout),
            stderr_path=str(layout.shim_stderr),
            cgroups=setup.join,
            rlimits=self._rlimits,
            argv=self._engines.command(spec),
        )
        spawned = await self._spawner.spawn(request)
        self._boxes_by_seq[spawned.seq] = box.box_id
        self._watch(box.box_id, self._handle(spawned))
        return spawned, setup.not_applied

    def _handle(self, spawned: Spawned) -> PidfdHandle:
        inode = self._kernel.pidfd_inode(spawned.pidfd)
        return PidfdHandle(self._kernel, spawned.pid, spawned.pidfd, inode)

    async def _await_ready(self, box: Box, spawned: Spawned) -> dict[str, Any]:
        problem: BoxlitedError
        try:
            message = await read_ready(spawned.ready_fd, READY_DEADLINE_SECONDS)
        except trio.TooSlowError:
            problem = EngineUnavailable(
                f"box {box.name} did not get ready in {READY_DEADLINE_SECONDS:g} s; it was stopped"
            )
        else:
            foreign = self._engines.command(box.spec) is not None
            if message is None and foreign and self._lives(box):
                return {}
            if message is not None and message.get("ready") is True:
                return message
            problem = _problem(box, message)
        raise StartFailed(self._ledger.row(box.box_id), problem)

    def _lives(self, box: Box) -> bool:
        handle = self._ledger.runtime(box.box_id).handle
        try:
            if handle is not None:
                handle.signal(0)
                return True
        except ProcessLookupError:
            pass
        return False

    async def _record_running(
        self, box: Box, spawned: Spawned, not_applied: tuple[str, ...], message: dict[str, Any]
    ) -> Box:
        handle = self._ledger.runtime(box.box_id).handle
        said = message.get("not_applied")
        extra = tuple(str(item)[:200] for item in said[:16]) if isinstance(said, list) else ()
        now = self._kernel.boottime()
        changes = {
            "status": BoxStatus.RUNNING,
            "pid": spawned.pid,
            "pidfs_inode": handle.inode if handle is not None else None,
            "identity": IdentityKind.VERIFIED,
            "started_at": time.time(),
            "started_boottime": now,
            "used_boottime": now,
            "stop_cause": None,
            "failure_reason": None,
            "exit_code": None,
            "exit_signal": None,
            "error_kind": None,
            "not_applied": (*not_applied, *extra),
            "warning": None,
        }
        return await self._ledger.write(
            box, changes, EventKind.STARTED, {"pid": spawned.pid, "run_id": box.run_id}, durable=False
        )


def _problem(box: Box, message: dict[str, Any] | None) -> BoxlitedError:
    if message is None:
        return EngineUnavailable(f"the shim of box {box.name} ended before its workload was started")
    kind, text = message.get("error_kind"), str(message.get("message", "no reason given"))[:1000]
    if kind == "unsupported":
        return Unsupported(text)
    if kind in ("not_found", "config"):
        return InvalidArgument(text)
    return BY_CODE.get(str(kind), EngineUnavailable)(text)
