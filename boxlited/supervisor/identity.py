"""Whether a recorded pid is our shim: the one gate for recovery, attach, stop, list and drain.

Opens the pidfd first and verifies through /proc afterwards, so that what is signalled later
is what was verified. (pid, start time) is not unique within a clock tick, so where further
evidence exists (boot id, pidfs inode) all of it must agree.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Container
from dataclasses import dataclass

from boxlited.errors import StorageError
from boxlited.model import IdentityKind
from boxlited.supervisor.kernel import ExitStatus, KernelProtocol, ProcStat
from boxlited.supervisor.pidfile import PidFileReader, PidRecord

DEAD_STATES = frozenset({"Z", "X", "x"})
NEVER_OURS = frozenset({0, 1})
RUN_ID = re.compile("[0-9a-f]{32}")
NOT_A_PROCESS = frozenset({errno.EINVAL, errno.ENOENT})  # a thread's id; newer kernels say ENOENT


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the row knows beyond `shim.pid`. None: not recorded."""

    boot_id: str | None = None
    pidfs_inode: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """`pid` only for Verified and Legacy, `errno` only for Unknown; `reason` says how it was found."""

    kind: IdentityKind
    pid: int | None = None
    errno: int | None = None
    reason: str = ""


class PidfdHandle:
    """A verified process, held by its pidfd. Owns the descriptor."""

    __slots__ = ("_kernel", "inode", "pid", "pidfd")

    def __init__(self, kernel: KernelProtocol, pid: int, pidfd: int, inode: int | None) -> None:
        self._kernel = kernel
        self.pid = pid
        self.pidfd = pidfd
        self.inode = inode

    def signal(self, number: int) -> None:
        """Raises ProcessLookupError when the process has ended; a stranger is never reached."""
        self._kernel.pidfd_signal(self.pidfd, number)

    def exit_status(self) -> ExitStatus | None:
        """How it ended, when the kernel can tell: reaped already, or a zombie still."""
        return self._kernel.exit_status(self.pidfd) or self._zombie_status()

    def _zombie_status(self) -> ExitStatus | None:
        status = self._kernel.zombie_status(self.pid)
        try:
            self.signal(0)  # not reaped yet, so the pid was not given to another
        except OSError:
            return None
        return status

    def run_of(self, box_id: str) -> str | None:
        """The id of the run that it was spawned for, from its sealed spec; None when that does not say."""
        spec = self._kernel.sealed_input(self.pid)
        try:
            self.signal(0)  # it lives, so what was read is its own
            content = json.loads(spec or b"null")
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.get("box_id") != box_id:
            return None
        run_id = content.get("run_id")
        return run_id if isinstance(run_id, str) and RUN_ID.fullmatch(run_id) else None

    def close(self) -> None:
        self._kernel.close(self.pidfd)


def identify(
    kernel: KernelProtocol,
    pid_path: os.PathLike[str] | str,
    evidence: Evidence,
    forbidden_pids: Container[int | None],
) -> tuple[ProcessIdentity, PidfdHandle | None]:
    """Classify the process that a pid file names. A handle comes with Verified and Legacy only."""
    try:
        record = PidFileReader(pid_path).read()
    except StorageError as error:
        return _absent(error.message), None
    except OSError as error:
        return _unknown(error, "reading the pid file"), None
    if is_never_ours(record.pid, forbidden_pids):
        return _absent(f"pid {record.pid} is never a shim"), None
    try:
        if evidence.boot_id is not None and evidence.boot_id != kernel.boot_id():
            return _absent("recorded before the host rebooted"), None
    except OSError as error:
        return _unknown(error, "reading the boot id"), None
    return _examine(kernel, record, evidence)


def reopen(kernel: KernelProtocol, held: PidfdHandle) -> PidfdHandle | None:
    """A second handle on a process that is held; None when it has ended.

    Lets pass the OSErrors that prove nothing.
    """
    try:
        again = PidfdHandle(kernel, held.pid, kernel.pidfd_open(held.pid), held.inode)
    except ProcessLookupError:
        return None
    alive = False
    try:
        state = kernel.proc_stat(held.pid).state
        held.signal(0)  # not reaped: its pid is no other's, so what was opened and read above was of it
        alive = state not in DEAD_STATES
    except ProcessLookupError:
        pass
    finally:
        if not alive:
            again.close()
    return again if alive else None


def is_never_ours(pid: int, forbidden_pids: Container[int | None]) -> bool:
    """Pids that no shim of ours can have, whatever runs under them."""
    return pid in NEVER_OURS or pid == os.getpid() or pid in forbidden_pids or pid > 2**31 - 1


def _examine(
    kernel: KernelProtocol, record: PidRecord, evidence: Evidence
) -> tuple[ProcessIdentity, PidfdHandle | None]:
    try:
        pidfd = kernel.pidfd_open(record.pid)
    except ProcessLookupError:
        return _absent("no such process"), None
    except OSError as error:
        if error.errno in NOT_A_PROCESS:
            return _absent("not a process"), None
        return _unknown(error, "opening the pidfd"), None
    try:
        identity, inode = _verify(kernel, record, evidence, pidfd)
    except BaseException:
        kernel.close(pidfd)
        raise
    if identity.pid is None:
        kernel.close(pidfd)
        return identity, None
    return identity, PidfdHandle(kernel, record.pid, pidfd, inode)


def _verify(
    kernel: KernelProtocol, record: PidRecord, evidence: Evidence, pidfd: int
) -> tuple[ProcessIdentity, int | None]:
    try:
        stat = kernel.proc_stat(record.pid)
        inode = kernel.pidfd_inode(pidfd)
        may_signal = _may_signal(kernel, pidfd)  # last: still there, so the stat was of this very process
    except ProcessLookupError:
        return _absent("ended while it was looked at"), None
    except OSError as error:
        return _unknown(error, "looking at the process"), None
    return classify(record, evidence, stat, inode, may_signal=may_signal), inode


def _may_signal(kernel: KernelProtocol, pidfd: int) -> bool:
    """Raises ProcessLookupError when the process has ended; EPERM says that it lives."""
    try:
        kernel.pidfd_signal(pidfd, 0)
    except PermissionError:
        return False
    return True


def classify(
    record: PidRecord, evidence: Evidence, stat: ProcStat, inode: int | None, *, may_signal: bool
) -> ProcessIdentity:
    """Pure: the record and the row's evidence against a process that has not been reaped.

    A difference anywhere is proof of a stranger. What agrees but may not be signalled is
    Unknown: it may be ours under another confinement, and is not proven dead.
    """
    if stat.state in DEAD_STATES:
        return _absent("zombie")
    if record.start_time is not None and stat.start_time != record.start_time:
        return _absent("another process has this pid (start time differs)")
    if evidence.pidfs_inode is not None and inode is not None and evidence.pidfs_inode != inode:
        return _absent("another process has this pid (pidfs inode differs)")
    if not may_signal:
        return ProcessIdentity(IdentityKind.UNKNOWN, errno=errno.EPERM, reason="it may not be signalled by this user")
    if record.start_time is None:
        return ProcessIdentity(IdentityKind.LEGACY, record.pid, reason="no fingerprint recorded")
    return ProcessIdentity(IdentityKind.VERIFIED, record.pid, reason="fingerprint agrees")


def _absent(reason: str) -> ProcessIdentity:
    return ProcessIdentity(IdentityKind.ABSENT, reason=reason)


def _unknown(error: OSError, doing: str) -> ProcessIdentity:
    return ProcessIdentity(IdentityKind.UNKNOWN, errno=error.errno, reason=f"{doing}: {error.strerror}")
