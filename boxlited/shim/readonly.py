"""A file as a read-only mount of its own: who executes it from there holds nothing that can be changed.

/proc/PID/exe leads past all mounts of a box, and the owner of a file may change it: where the daemon is
root, a box's uid 0 owns what the host's does. Needs CAP_SYS_ADMIN. Standard library only.
"""

import ctypes
import os

AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
SYS_OPEN_TREE, SYS_MOUNT_SETATTR = 428, 442  # the same on every architecture
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def read_only_mount(path: str) -> int:
    """A descriptor of it, closed on exec; nobody else sees the mount. Raises OSError."""
    name = os.fsencode(os.path.realpath(path))
    fd = int(_libc.syscall(SYS_OPEN_TREE, AT_FDCWD, name, OPEN_TREE_CLONE | os.O_CLOEXEC))
    if fd < 0:
        raise _error("open_tree")
    attributes = _MountAttributes(attr_set=MOUNT_ATTR_RDONLY)
    size = ctypes.sizeof(attributes)
    if _libc.syscall(SYS_MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, ctypes.byref(attributes), size) < 0:
        error = _error("mount_setattr")
        os.close(fd)
        raise error
    return fd


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
