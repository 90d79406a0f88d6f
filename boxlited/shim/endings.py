"""How a process ended that is not our child: PIDFD_GET_INFO, where the kernel has it (>= 6.15).

bubblewrap folds a signal into exit code 128 + n; this tells the two apart. Standard library only.
"""

import fcntl
import os
import struct
import time

from boxlited.failpoints import hit

PIDFD_GET_INFO = 0xC040FF0B
PIDFD_INFO_EXIT = 1 << 3
RETRY_SECONDS = 1.0  # a machine that is busy reaps late, and a guess at the end would be told as the truth
PAUSE_SECONDS = 0.0002


def exit_status(pidfd: int) -> int | None:
    """The raw wait status of an ended process. It is there once the process was reaped, which its
    parent does at about this time: tried for a bounded time. None when the kernel cannot tell."""
    end = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            raw = _ask(pidfd)
        except OSError:
            return None
        if raw is not None or time.monotonic() > end:
            return raw
        time.sleep(PAUSE_SECONDS)


def _ask(pidfd: int) -> int | None:
    """None: not reaped yet, or in this very moment, when the kernel says ESRCH. It leaves the buffer as it was then:
    with our request for an exit in it, which read as an answer is exit code 0."""
    buffer = bytearray(64)
    struct.pack_into("Q", buffer, 0, PIDFD_INFO_EXIT)
    try:
        hit("shim.exit_info")
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, buffer)
    except ProcessLookupError:
        return None
    if not struct.unpack_from("Q", buffer, 0)[0] & PIDFD_INFO_EXIT:
        return None
    return int(struct.unpack_from("i", buffer, 60)[0])


def is_supported() -> bool:
    """Whether this kernel answers for a live process without refusing the request."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, bytearray(struct.pack("Q", PIDFD_INFO_EXIT) + bytes(56)))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True
