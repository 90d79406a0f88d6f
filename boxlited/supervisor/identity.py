"""Whether a recorded pid is our shim: the one gate for recovery, attach, stop, list and drain.

Opens the pidfd first and verifies through /proc afterwards, so that what is signalled later
is what was verified. (pid, start time) is not unique within a clock tick, so where further
evidence exists (boot id, pidfs inode) all of it must agree.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container
from dataclasses import dataclass

from boxlited.errors import StorageError
from boxlited.model import IdentityKind
from boxlited.supervisor.kernel import ExitStatus, KernelProtocol, ProcStat
from boxlited.supervisor.pidfile import PidFileReader, PidRecord

DEAD_STATES = frozenset({"Z", "X", "x"})
NEVER_OURS = frozenset({0, 1})


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

    def close(self) -> None:
        self._kernel.close(self.pidfd)


def identify(
    kernel: KernelProtocol,
    pid_path: os.PathLike[str] | str,
    evidence: Evidence,
    forbidden_pids: Container[int],
) -> tuple[ProcessIdentity, PidfdHandle | None]:
    """Classify the process that a pid file names. A handle comes with Verified and Legacy only."""
    try:
        record = PidFileReader(pid_path).read()
    except StorageError as error:
        return _absent(error.message), None
    except OSError as error:
        return _unknown(error, "reading the pid file"), None
    refusal = refuse_record(record, evidence, kernel.boot_id(), forbidden_pids)
    if refusal is not None:
        return _absent(refusal), None
    return _examine(kernel, record, evidence)


def refuse_record(record: PidRecord, evidence: Evidence, boot_id: str, forbidden_pids: Container[int]) -> str | None:
    """Why a record is Absent whatever runs under its pid; None when the process must be looked at."""
    if record.pid in NEVER_OURS or record.pid in forbidden_pids or record.pid > 2**31 - 1:
        return f"pid {record.pid} is never a shim"
    if evidence.boot_id is not None and evidence.boot_id != boot_id:
        return "recorded before the host rebooted"
    return None


def _examine(
    kernel: KernelProtocol, record: PidRecord, evidence: Evidence
) -> tuple[ProcessIdentity, PidfdHandle | None]:
    try:
        pidfd = kernel.pidfd_open(record.pid)
    except ProcessLookupError:
        return _absent("no such process"), None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a thread that leads no group
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
        kernel.pidfd_signal(pidfd, 0)  # still there, so the stat was of this very process
    except ProcessLookupError:
        return _absent("ended while it was looked at"), None
    except PermissionError:
        return _absent("belongs to another user"), None
    except OSError as error:
        return _unknown(error, "looking at the process"), None
    return classify(record, stat, evidence, inode), inode


def classify(record: PidRecord, stat: ProcStat, evidence: Evidence, inode: int | None) -> ProcessIdentity:
    """Pure: the record against what runs under its pid."""
    if stat.state in DEAD_STATES:
        return _absent("zombie")
    if record.start_time is not None and stat.start_time != record.start_time:
        return _absent("another process has this pid (start time differs)")
    if evidence.pidfs_inode is not None and inode is not None and evidence.pidfs_inode != inode:
        return _absent("another process has this pid (pidfs inode differs)")
    if record.start_time is None:
        return ProcessIdentity(IdentityKind.LEGACY, record.pid, reason="no fingerprint recorded")
    return ProcessIdentity(IdentityKind.VERIFIED, record.pid, reason="fingerprint agrees")


def _absent(reason: str) -> ProcessIdentity:
    return ProcessIdentity(IdentityKind.ABSENT, reason=reason)


def _unknown(error: OSError, doing: str) -> ProcessIdentity:
    return ProcessIdentity(IdentityKind.UNKNOWN, errno=error.errno, reason=f"{doing}: {error.strerror}")
