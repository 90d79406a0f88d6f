"""The world -> Observation. Reads identity, exit file, death evidence, cgroup and boot id.

Takes no decision and changes nothing. An error that is not proof of absence makes the
whole observation Unknown: better to look again than to lose a live box. For the same reason
a shim that is held by its pidfd is alive for as long as it lives, whatever its pid file says.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from boxlited.model import Box, BoxID, IdentityKind
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.exitfile import ExitFileUnreadable, ExitInfo, read_exit_file
from boxlited.supervisor.identity import Evidence, PidfdHandle, ProcessIdentity, identify, reopen
from boxlited.supervisor.kernel import ExitStatus, KernelProtocol
from boxlited.supervisor.layout import BoxLayout, HomeLayout
from boxlited.supervisor.plans import ExitRun, ExitSeen, Observation
from boxlited.supervisor.runtime import BoxRuntime

EVIDENCE_WAIT_SECONDS = 0.5
CLOCK_SLACK_SECONDS = 1.0  # a slewed wall clock, and times of files that are some milliseconds coarse
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class Sight:
    """An observation and the material behind it, for `apply` to use."""

    observation: Observation
    handle: PidfdHandle | None = None  # of a live shim; owned by the receiver
    exit_info: ExitInfo | None = None
    exit_problem: str | None = None
    shim_status: ExitStatus | None = None

    @property
    def own_exit(self) -> ExitInfo | None:
        """The exit record, unless it is another run's: that says nothing of this one."""
        return None if self.observation.exit_run is ExitRun.OTHER else self.exit_info


class Observer:
    """Looks at boxes. The spawner of the moment is never a shim; nor is the daemon, which `identity` knows itself."""

    def __init__(
        self, kernel: KernelProtocol, home: HomeLayout, cgroups: Cgroups, spawner_pid: Callable[[], int | None]
    ) -> None:
        self._kernel = kernel
        self._home = home
        self._cgroups = cgroups
        self._spawner_pid = spawner_pid
        self.owners: dict[int, BoxID] = {}  # which box holds a verified shim of this pid
        self.boot_id = kernel.boot_id()

    def identify(self, layout: BoxLayout, evidence: Evidence) -> tuple[ProcessIdentity, PidfdHandle | None]:
        return identify(self._kernel, layout.pid_file, evidence, (self._spawner_pid(),))

    def seems_older_than_boot(self, path: Path) -> bool:
        """By the wall clock, which may have been stepped since: a reason to doubt, and no proof."""
        try:
            written = os.stat(path).st_mtime
        except OSError:
            return True
        return written < time.time() - self._kernel.boottime()

    def observe(self, box: Box, runtime: BoxRuntime) -> Sight:
        """Look at one box. Never raises for what it finds; blocks only on local files."""
        layout = self._home.box(box.box_id)
        evidence = Evidence(box.boot_id, box.pidfs_inode)
        try:
            identity, handle = self.identify(layout, evidence)
            if handle is not None and self._is_another_boxs(box.box_id, handle):
                handle.close()
                identity, handle = ProcessIdentity(IdentityKind.ABSENT, reason="the shim of another box"), None
            if runtime.unproven and runtime.died_at is None and (handle or runtime.handle) is not None:
                if handle is not None:
                    handle.close()
                return Sight(self._unknown(errno.EPROTO, runtime, unproven=True))
            if identity.kind is IdentityKind.UNKNOWN:
                runtime.unknown_passes += 1
                return Sight(self._unknown(identity.errno, runtime))
            held = self._held_instead(runtime, handle)
            if held is not None:
                identity = ProcessIdentity(IdentityKind.VERIFIED, held.pid, reason="held by its pidfd")
            return self._look_with(box, runtime, layout, identity, held or handle, pid_file_wrong=held is not None)
        except OSError as error:
            runtime.unknown_passes += 1
            return Sight(self._unknown(error.errno, runtime))

    def _held_instead(self, runtime: BoxRuntime, found: PidfdHandle | None) -> PidfdHandle | None:
        """The live shim that we hold, where the pid file led to none or to another; takes over `found` then."""
        held = runtime.handle
        if held is None or runtime.died_at is not None or (found is not None and found.pid == held.pid):
            return None
        try:
            again = reopen(self._kernel, held)
        except OSError:
            if found is not None:
                found.close()
            raise
        if again is not None and found is not None:
            found.close()
        return again

    def _is_another_boxs(self, box_id: BoxID, handle: PidfdHandle) -> bool:
        return self.owners.get(handle.pid, box_id) != box_id

    def _unknown(self, errno: int | None, runtime: BoxRuntime, *, unproven: bool = False) -> Observation:
        passes = runtime.unknown_passes
        return Observation(identity=IdentityKind.UNKNOWN, errno=errno, unknown_passes=passes, unproven=unproven)

    def _look_with(
        self,
        box: Box,
        runtime: BoxRuntime,
        layout: BoxLayout,
        identity: ProcessIdentity,
        handle: PidfdHandle | None,
        *,
        pid_file_wrong: bool,
    ) -> Sight:
        """Owns the handle until it is in the sight."""
        try:
            sight = self._look(box, runtime, layout, identity, handle, pid_file_wrong=pid_file_wrong)
        except OSError:
            if handle is not None:
                handle.close()
            raise
        runtime.unknown_passes = 0  # only now is everything known
        return sight

    def _look(
        self,
        box: Box,
        runtime: BoxRuntime,
        layout: BoxLayout,
        identity: ProcessIdentity,
        handle: PidfdHandle | None,
        *,
        pid_file_wrong: bool,
    ) -> Sight:
        info, problem = _read_exit(layout)
        run = _exit_run(box, info)
        written_at = None if info is None or run is ExitRun.OTHER else os.lstat(layout.exit_file).st_mtime
        alive = handle is not None
        status = None if alive else self._shim_status(runtime)
        observation = Observation(
            identity=identity.kind,
            pid=identity.pid if alive else None,
            boot_changed=box.boot_id is not None and box.boot_id != self.boot_id,
            directory=alive or _is_directory(layout.directory),
            pid_file=_is_there(layout.pid_file),
            pid_file_wrong=pid_file_wrong,
            exit=_exit_seen(info, problem),
            exit_run=run,
            exit_signal=info.signal if info else None,
            exit_code=info.exit_code if info else None,
            shim_signal=status.signal_name if status else None,
            shim_code=status.code if status else None,
            oom=not alive and bool(self._cgroups.oom_kills(box.box_id)),
            leftovers=not alive and bool(self._cgroups.populated(box.box_id)),
            ran_seconds=self._ran_seconds(box, runtime, written_at),
            evidence_pending=not alive and _evidence_pending(runtime, status),
            unknown_passes=0,
        )
        return Sight(observation, handle, info, problem, status)

    def _shim_status(self, runtime: BoxRuntime) -> ExitStatus | None:
        if runtime.shim_status is None and runtime.handle is not None:
            runtime.shim_status = runtime.handle.exit_status()
        return runtime.shim_status

    def _ran_seconds(self, box: Box, runtime: BoxRuntime, written_at: float | None) -> float | None:
        """How long the run lasted; up to now where its end was not seen and left no record, None so after a reboot."""
        if box.started_boottime is None or box.started_at is None:
            return None
        by_wall = None if written_at is None else written_at - box.started_at
        if box.boot_id != self.boot_id:
            return by_wall
        until_now = max(0.0, self._kernel.boottime() - box.started_boottime)
        if runtime.died_at is not None:
            return max(0.0, until_now - (trio.current_time() - runtime.died_at))
        if written_at is None or by_wall is None:
            return until_now
        return _shortest((by_wall, until_now - (time.time() - written_at)), until_now)


def _shortest(estimates: tuple[float, ...], longest: float) -> float:
    """A step of the wall clock during the run spoils the one estimate, a step after it the other.

    The one that it makes impossible is left out; of two that may be true, the shorter claims less.
    """
    possible = [one for one in estimates if -CLOCK_SLACK_SECONDS <= one <= longest + CLOCK_SLACK_SECONDS]
    return max(0.0, min(possible, default=longest))


def _is_directory(path: Path) -> bool:
    """Not `Path.is_dir`: from Python 3.14 on it says of every error that there is none. Raises OSError."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in NOT_THERE:
            return False
        raise


def _is_there(path: Path) -> bool:
    """Whatever it is. Raises OSError."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in NOT_THERE:
            return False
        raise
    return True


def _read_exit(layout: BoxLayout) -> tuple[ExitInfo | None, str | None]:
    try:
        return read_exit_file(layout.exit_file), None
    except ExitFileUnreadable as problem:
        return None, problem.message


def _exit_seen(info: ExitInfo | None, problem: str | None) -> ExitSeen:
    if problem is not None:
        return ExitSeen.UNREADABLE
    if info is None:
        return ExitSeen.NONE
    return ExitSeen.CRASH if info.is_crash else ExitSeen.EXITED


def _exit_run(box: Box, info: ExitInfo | None) -> ExitRun:
    if info is None:
        return ExitRun.THIS
    if info.run_id is None or box.run_id is None:
        return ExitRun.UNSAID
    return ExitRun.THIS if info.run_id == box.run_id else ExitRun.OTHER


def _evidence_pending(runtime: BoxRuntime, status: ExitStatus | None) -> bool:
    """The death is fresh and nothing yet says how it came."""
    if runtime.died_at is None or (status is not None and status.signal is not None):
        return False
    return trio.current_time() - runtime.died_at < EVIDENCE_WAIT_SECONDS
