"""Bringing a box to run: intent row, cgroup, spawn, ready line, row `running`.

Owns the order of a start. Is called only by `apply` on a plan that proved the shim Absent,
under the box's lock. A failure leaves no process and says why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio

from boxlited.errors import (
    BY_CODE,
    BoxlitedError,
    EngineUnavailable,
    ImagePullFailed,
    InvalidArgument,
    StorageError,
)
from boxlited.failpoints import hit
from boxlited.model import Box, BoxID, BoxSpec, BoxStatus, Desired, EventKind, IdentityKind, mint_run_id
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.directories import Directories, storage_error
from boxlited.supervisor.engines import Engines
from boxlited.supervisor.exitfile import stash
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.layout import BoxLayout, HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.spawn import Spawned, Spawner, SpawnFailed, SpawnRequest, read_ready
from boxlited.supervisor.stop import dead_event

ERRORS: dict[str, type[BoxlitedError]] = {  # error kinds of a shim that are no codes of the API
    "not_found": InvalidArgument,
    "config": InvalidArgument,
    "image": ImagePullFailed,
    "storage": StorageError,
}
READY_DEADLINE_SECONDS = 30.0
SILENCE_SECONDS = 0.1

log = structlog.get_logger()


class StartFailed(Exception):
    """The start did not succeed; `cause` is what the caller of the API is told.

    `silent`: the shim said nothing about it, so that what it left behind may tell more.
    """

    def __init__(self, box: Box, cause: BoxlitedError, *, silent: bool = False) -> None:
        super().__init__(cause.message)
        self.box = box
        self.cause = cause
        self.silent = silent


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
        row = await self._record_running(box, spawned, not_applied, message)
        hit("start.after_row")
        return row

    async def _record_intent(self, box: Box, run_id: str, restart_count: int) -> Box:
        changes = {
            "desired": Desired.RESTARTED if box.desired is Desired.RESTARTED else Desired.RUNNING,  # until it runs
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
        if self._engines.command(spec) is not None:  # our own shim does it itself
            put_away_exit(layout)
        pids = self._engines.pids(spec)
        setup = self._cgroups.prepare(box.box_id, run_id, cpus=spec.cpus, memory_mib=spec.memory_mib, pids=pids)
        hit("start.after_cgroup")
        self._engines.demand_applied(setup.not_applied)
        request = SpawnRequest(
            pid_file=str(layout.pid_file),
            spec=self._engines.shim_spec(box, run_id, layout),
            stderr_path=str(layout.shim_stderr),
            cgroups=setup.join,
            rlimits=self._rlimits,
            argv=self._engines.command(spec),
        )
        spawned = await self._ask(request, spec)
        self._watch(box.box_id, self._handle(spawned))
        if spawned.ended is None:
            self._boxes_by_seq[spawned.seq] = box.box_id
        else:
            self._ledger.runtime(box.box_id).shim_status = spawned.ended
        return spawned, setup.not_applied

    async def _ask(self, request: SpawnRequest, spec: BoxSpec) -> Spawned:
        try:
            return await self._spawner.spawn(request)
        except SpawnFailed as error:
            if error.stage != "exec" or request.argv is None:
                raise
            raise EngineUnavailable(
                f"the shim of engine {spec.engine!r} could not be executed: {request.argv[0]}:"
                f" {os.strerror(error.errno)} (errno {error.errno}): see [engines.external.{spec.engine}] in the config"
            ) from error

    def _handle(self, spawned: Spawned) -> PidfdHandle:
        inode = self._kernel.pidfd_inode(spawned.pidfd)
        return PidfdHandle(self._kernel, spawned.pid, spawned.pidfd, inode)

    async def _await_ready(self, box: Box, spawned: Spawned) -> dict[str, Any]:
        problem: BoxlitedError
        silent = False
        try:
            message = await read_ready(spawned.ready_fd, READY_DEADLINE_SECONDS)
        except trio.TooSlowError:
            problem = EngineUnavailable(
                f"box {box.name} did not get ready in {READY_DEADLINE_SECONDS:g} s; it was stopped"
            )
        else:
            foreign = self._engines.command(box.spec) is not None
            if message is None and foreign and await self._outlives_its_silence(box):
                return {}
            if message is not None and message.get("ready") is True:
                return message
            problem = _problem(box, message)
            silent = message is None
        raise StartFailed(self._ledger.row(box.box_id), problem, silent=silent)

    async def _outlives_its_silence(self, box: Box) -> bool:
        """Whether a shim that closed its ready pipe without a word lives; a death is seen a moment after that."""
        dead = dead_event(self._ledger.runtime(box.box_id))
        with trio.move_on_after(SILENCE_SECONDS):
            await dead.wait()
        return not dead.is_set()

    async def _record_running(
        self, box: Box, spawned: Spawned, not_applied: tuple[str, ...], message: dict[str, Any]
    ) -> Box:
        handle = self._ledger.runtime(box.box_id).handle
        said = message.get("not_applied")
        extra = tuple(str(item)[:200] for item in said[:16]) if isinstance(said, list) else ()
        now = self._kernel.boottime()
        changes = {
            "status": BoxStatus.RUNNING,
            "desired": Desired.RUNNING,
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


def put_away_exit(layout: BoxLayout) -> None:
    """Stash the exit file of another run. Raises StorageError or ResourceExhausted."""
    try:
        stash(layout.exit_file, layout.exit_previous)
    except OSError as error:
        raise storage_error("put away the exit file of the last run", layout.exit_file, error) from error


def _problem(box: Box, message: dict[str, Any] | None) -> BoxlitedError:
    if message is None:
        return EngineUnavailable(f"the shim of box {box.name} ended before its workload was started")
    return error_of_kind(message.get("error_kind"), str(message.get("message", "no reason given"))[:1000])


def error_of_kind(kind: object, text: str) -> BoxlitedError:
    """The API's error for an error kind of the shim's."""
    return (ERRORS.get(str(kind)) or BY_CODE.get(str(kind), EngineUnavailable))(text)
