"""What the attempts to get out of a box are made of. It runs in the box, as the parts beside it do: see `program.py`.

An attempt that the kernel refuses returns the name of the errno; one that is let through says so, for a test
outside to judge.
"""

import ctypes
import errno
import json
import os
import platform

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
ATTEMPTS = []
NUMBERS = {  # system calls without a function in the C library: x86_64, and the common table of all newer ones
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "setns": (308, 268),
    "open_by_handle_at": (304, 265), "kexec_load": (246, 104), "init_module": (175, 105), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270), "clone3": (435, 435), "swapon": (167, 224), "reboot": (169, 142),
    "settimeofday": (164, 170), "syslog": (103, 116), "quotactl": (179, 60), "acct": (163, 89),
}  # fmt: skip


def attempt(function):
    ATTEMPTS.append(function)
    return function


def main():
    """Make every attempt, and say as JSON what each returned."""
    results = {}
    for function in ATTEMPTS:
        try:
            results[function.__name__] = function()
        except Exception as error:
            results[function.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))


def name_of(number):
    return errno.errorcode.get(number, str(number))


def call(name, *arguments):
    """The name of the errno, or `done`."""
    number = NUMBERS[name][0 if platform.machine() == "x86_64" else 1]
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    ctypes.set_errno(0)
    return name_of(ctypes.get_errno()) if LIBC.syscall(ctypes.c_long(number), *wide) < 0 else "done"


def c(function, *arguments):
    ctypes.set_errno(0)
    return name_of(ctypes.get_errno()) if getattr(LIBC, function)(*arguments) < 0 else "done"


def tried(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except OSError as error:
        return name_of(error.errno)
    return "done"


def opened(path, flags=os.O_RDONLY, read=0):
    """`done` when a file opens, and gives bytes where some are asked for."""
    try:
        fd = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        return name_of(error.errno)
    try:
        return "done" if not read or os.read(fd, read) else "empty"
    except OSError as error:
        return name_of(error.errno)
    finally:
        os.close(fd)


def in_child(function):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    said = os.read(read, 100).decode()
    os.close(read)
    return said
