"""Follows a link without leaving a directory: the kernel's openat2 with RESOLVE_BENEATH."""

import ctypes
import os

OPENAT2 = 437  # on every architecture that Python runs on
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t)
_syscall.restype = ctypes.c_long


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Opens what `path` leads to. Raises OSError: EXDEV when it leads out of `root`."""
    how = _How(flags | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    while True:
        fd: int = _syscall(OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (4, 11):  # EINTR, and EAGAIN: something was renamed meanwhile
            raise OSError(number, os.strerror(number))
