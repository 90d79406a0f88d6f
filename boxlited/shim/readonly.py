"""A program as a file that nobody can change: who executes it from there holds nothing of the host's.

/proc/PID/exe leads past all mounts of a box, and the owner of a file may change it: a box acts as the
daemon's user. So a program that a box can find running comes through a read-only mount of its own where the
kernel lets us make one (CAP_SYS_ADMIN), else as a sealed copy in memory. Standard library only.
"""

import ctypes
import fcntl
import os

AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
SYS_OPEN_TREE, SYS_MOUNT_SETATTR = 428, 442  # the same on every architecture
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY = 1

MFD_EXEC = 0x10  # known from Linux 6.3 on
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def unchangeable_file(path: str) -> int:
    """A descriptor of the program at `path`, closed on exec. Raises OSError."""
    try:
        return read_only_mount(path)
    except OSError:  # an ordinary user, or a kernel before 5.12
        return sealed_copy(path)


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


def sealed_copy(path: str) -> int:
    """A file in memory with the same content, for ever. Raises OSError."""
    fd = _memory_file()
    try:
        with open(path, "rb") as source:
            while os.sendfile(fd, source.fileno(), None, 1 << 24) > 0:
                pass
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("boxlited", flags | MFD_EXEC)
    except OSError:
        return os.memfd_create("boxlited", flags)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
