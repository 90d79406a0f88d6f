"""System calls that Python has no name for: a fork into a cgroup, signals that the C library hides, orphans.

A process that joins a cgroup by writing to `cgroup.procs` waits for an RCU grace period of
the whole machine: 5 to 10 ms of every start. A child that is born there waits for nothing.
Only for a process with a single thread: this bypasses the C library's fork.
"""

import ctypes
import errno
import os
import platform
import signal
import struct

CLONE_INTO_CGROUP = 0x200000000
CLONE_ARGS = struct.Struct("11Q")  # struct clone_args, version 2 (kernel >= 5.7)
SYS_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134, "ppc64le": 173, "s390x": 174}
HIDDEN_SIGNALS = (32, 33)  # the C library's own: it lets nobody change them, but an exec keeps them ignored
PR_SET_CHILD_SUBREAPER = 36
SYS_CLONE3 = 435  # the same number on every architecture but alpha
UNSUPPORTED = frozenset(
    {errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.EPERM, errno.EOPNOTSUPP, errno.EBUSY, errno.EACCES, errno.EBADF}
)

# PyDLL keeps the interpreter's lock over the call: the child comes out of it as it went in.
_libc = ctypes.PyDLL(None, use_errno=True)
_python = ctypes.pythonapi
_is_known = platform.machine() in SYS_RT_SIGACTION


def fork_into(cgroup_fd: int | None) -> tuple[int, bool]:
    """(pid, was the child born in the cgroup); pid 0 in the child. Raises OSError as fork does."""
    if cgroup_fd is None or not _is_known:
        return os.fork(), False
    arguments = CLONE_ARGS.pack(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    buffer = ctypes.create_string_buffer(arguments, CLONE_ARGS.size)
    _python.PyOS_BeforeFork()
    pid = _libc.syscall(ctypes.c_long(SYS_CLONE3), buffer, ctypes.c_size_t(CLONE_ARGS.size))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0, True
    number = ctypes.get_errno() if pid < 0 else 0
    _python.PyOS_AfterFork_Parent()
    if pid > 0:
        return int(pid), True
    if number in UNSUPPORTED:
        return os.fork(), False
    raise OSError(number, os.strerror(number))


def clear_hidden_signals() -> None:
    """Whoever started us may ignore signals 32 and 33; no shim and no workload should inherit that."""
    if _is_known:
        default = ctypes.create_string_buffer(64)  # struct sigaction: SIG_DFL is 0, no flags, an empty mask
        for number in HIDDEN_SIGNALS:
            syscall = ctypes.c_long(SYS_RT_SIGACTION[platform.machine()])
            _libc.syscall(syscall, ctypes.c_int(number), default, None, ctypes.c_size_t(8))


def become_subreaper() -> None:
    """Orphans below this process become its children. Not inherited by a fork."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def own_children() -> list[int]:
    """Zombies too; nobody on a kernel that does not list them. Raises OSError when they cannot be listed now."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return []
