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
    "getdents64": ("EIO", "ENOMEM"),
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
READ_ONLY = frozenset({"pread64", "getdents64", "dup2", "prlimit64"})  # a kill there is a kill at the next one


def kinds(call: str) -> tuple[str, ...]:
    """What is done to a call: killed there, unless that tells nothing new, and each of its errors."""
    return ERRORS[call] if call in READ_ONLY else (KILL, *ERRORS[call])


def expression(call: str, kind: str, number: int) -> str:
    """For `strace -e inject=`. The number counts the calls of each thread for itself."""
    what = "signal=KILL" if kind == KILL else f"error={kind}"
    return f"{call}:{what}:when={number}"
