"""Which system calls are cut, and what each may fail with. Data only.

`kill` is SIGKILL on entry: what comes before the call is done, the call itself is not.
"""

from __future__ import annotations

KILL = "kill"

ERRORS: dict[str, tuple[str, ...]] = {
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "pwrite64": ("EIO", "ENOSPC"),
    "pread64": ("EIO",),
    "ftruncate": ("EIO", "ENOSPC"),
    "write": ("EIO", "ENOSPC"),
    "openat": ("EMFILE", "EIO"),
    "mkdir": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"),
    "renameat": ("EIO", "ENOSPC"),
    "unlink": ("EIO",),
    "unlinkat": ("EIO",),
    "rmdir": ("EIO",),
    "getdents64": ("EIO",),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "fork": ("EAGAIN", "ENOMEM"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "pidfd_open": ("EMFILE", "ENOMEM"),
    "pidfd_send_signal": ("ENOMEM",),
    "memfd_create": ("EMFILE", "ENOMEM"),
    "pipe2": ("EMFILE", "ENFILE"),
    "socket": ("EMFILE", "ENOMEM"),
    "connect": ("ENOMEM",),
    "bind": ("ENOSPC",),
    "sendmsg": ("ENOMEM",),
    "recvmsg": ("ENOMEM",),
    "dup2": ("EMFILE",),
    "setsid": ("ENOMEM",),
    "prlimit64": ("ENOMEM",),
}
# A kill at what changes nothing is a kill at the next one. The daemon's main thread opens only to read.
READS = frozenset({"pread64", "getdents64", "dup2", "prlimit64"})
MAIN_READS = READS | {"openat"}


def kinds(role: str, call: str) -> tuple[str, ...]:
    """What is done to a call: killed there, unless that tells nothing new, and each of its errors."""
    reads = MAIN_READS if role in ("main", "recovery main") else READS
    return ERRORS[call] if call in reads else (KILL, *ERRORS[call])


def expression(call: str, kind: str, number: int) -> str:
    """For `strace -e inject=`. The number counts the calls of each thread for itself."""
    what = "signal=KILL" if kind == KILL else f"error={kind}"
    return f"{call}:{what}:when={number}"
