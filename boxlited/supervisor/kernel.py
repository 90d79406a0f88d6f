"""The one seam to the system calls on processes: pidfd, /proc, boot id.

Tests swap it for a fake that is itself checked against this one. Decides nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal as signals
import struct
import time
from dataclasses import dataclass
from typing import Protocol

from boxlited.supervisor.pidfile import parse_start_time

PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)
PIDFD_INFO_EXIT = 1 << 3
_EXIT_CODE_OFFSET = 60
PID_FS_MAGIC = 0x50494446
MEMORY_FILE = "/memfd:"
MAX_INPUT_BYTES = 4 << 20
_STATFS_BYTES = 256
_NO_SUCH_REQUEST = frozenset({errno.ENOTTY, errno.EINVAL})  # kernels before 6.11; 6.11 and 6.12


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: by a signal or with a code, never both."""

    signal: int | None = None
    code: int | None = None

    @classmethod
    def from_wait_status(cls, raw: int) -> ExitStatus:
        if os.WIFSIGNALED(raw):
            return cls(signal=os.WTERMSIG(raw))
        return cls(code=os.WEXITSTATUS(raw))

    @property
    def signal_name(self) -> str | None:
        return None if self.signal is None else signal_name(self.signal)


@dataclass(frozen=True, slots=True)
class ProcStat:
    """What /proc/PID/stat says. `start_time` is in clock ticks since boot."""

    pid: int
    state: str
    ppid: int
    start_time: int


class KernelProtocol(Protocol):
    def boot_id(self) -> str: ...
    def boottime(self) -> float: ...
    def pidfd_open(self, pid: int) -> int: ...
    def pidfd_signal(self, pidfd: int, signal: int) -> None: ...
    def pidfd_inode(self, pidfd: int) -> int | None: ...
    def close(self, fd: int) -> None: ...
    def exit_status(self, pidfd: int) -> ExitStatus | None: ...
    def zombie_status(self, pid: int) -> ExitStatus | None: ...
    def proc_stat(self, pid: int) -> ProcStat: ...
    def process_children(self, pid: int) -> list[int]: ...
    def sealed_input(self, pid: int) -> bytes | None: ...


class Kernel:
    """The real one. Every OSError passes through; a process that is gone is ProcessLookupError."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._tells_exits = True  # until the kernel says that it does not know PIDFD_GET_INFO

    def boot_id(self) -> str:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()

    def boottime(self) -> float:
        """Seconds since boot, suspended time included; wall clock steps do not touch it."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def pidfd_open(self, pid: int) -> int:
        return os.pidfd_open(pid)

    def pidfd_signal(self, pidfd: int, signal: int) -> None:
        signals.pidfd_send_signal(pidfd, signal)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pidfd_inode(self, pidfd: int) -> int | None:
        """The pidfs inode (kernel >= 6.9): unique for each process of a boot. None on older ones."""
        buffer = ctypes.create_string_buffer(_STATFS_BYTES)
        if self._libc.fstatfs(pidfd, buffer) != 0:
            return None
        (magic,) = struct.unpack_from("l", buffer)
        return os.fstat(pidfd).st_ino if magic == PID_FS_MAGIC else None

    def exit_status(self, pidfd: int) -> ExitStatus | None:
        """How the process ended, once it was reaped (kernel >= 6.15); None when that is not known."""
        if not self._tells_exits:
            return None
        buffer = bytearray(64)
        struct.pack_into("Q", buffer, 0, PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, buffer)
        except OSError as error:
            self._tells_exits = error.errno not in _NO_SUCH_REQUEST
            return None
        (mask,) = struct.unpack_from("Q", buffer, 0)
        if not mask & PIDFD_INFO_EXIT:
            return None
        (raw,) = struct.unpack_from("i", buffer, _EXIT_CODE_OFFSET)
        return ExitStatus.from_wait_status(raw)

    def zombie_status(self, pid: int) -> ExitStatus | None:
        """How a process ended that nobody has reaped yet; None when it is no zombie of ours to see."""
        try:
            fields = _stat_line(pid).rpartition(b")")[2].split()
        except OSError:
            return None
        if len(fields) < 50 or fields[0] != b"Z":
            return None
        raw = int(fields[49])  # field 52 of the line
        if raw == 0 and not _tells_secrets(pid):
            return None
        return ExitStatus.from_wait_status(raw)

    def proc_stat(self, pid: int) -> ProcStat:
        return parse_stat(pid, _stat_line(pid))

    def process_children(self, pid: int) -> list[int]:
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                return [int(word) for word in file.read().split()]
        except FileNotFoundError:
            return []

    def sealed_input(self, pid: int) -> bytes | None:
        """What lies in the sealed memory file that a process has as its input; None when it has none for us to see."""
        path = f"/proc/{pid}/fd/0"
        try:
            if not os.readlink(path).startswith(MEMORY_FILE):  # a terminal or a FIFO is not even opened
                return None
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                return None
            return os.pread(fd, MAX_INPUT_BYTES, 0)
        except OSError:
            return None
        finally:
            os.close(fd)


def _stat_line(pid: int) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if _exists(pid):
            raise  # hidepid keeps the living out of sight: no proof of death
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from error
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _tells_secrets(pid: int) -> bool:
    """Whether what its stat line keeps from others is true for us: they read 0 there. The link asks for the same
    permission (ptrace's, to read), and of a zombie leads nowhere."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _exists(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except (ProcessLookupError, OverflowError):  # a record may hold any 32-bit number
        return False
    return True


def parse_stat(pid: int, line: bytes) -> ProcStat:
    """Split on the last ')': the name may hold anything. Raises OSError (EIO) for a torn line."""
    start_time = parse_start_time(line)
    fields = line[line.rfind(b")") + 1 :].split()
    if start_time is None or len(fields) < 2:
        raise OSError(errno.EIO, f"/proc/{pid}/stat is not understood")
    return ProcStat(pid, fields[0].decode("ascii", "replace"), int(fields[1]), start_time)


def signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIG{number}"
