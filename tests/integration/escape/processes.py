"""Attempts on devices, terminals, and processes in the box and beyond it."""

import ctypes
import fcntl
import json
import os
import sys
import termios

from tests.integration.escape.calls import attempt, c, call, name_of, opened, tried


@attempt
def processes():
    """(pid, command) of all that is visible."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with open(f"/proc/{pid}/comm") as file:
            found.append((int(pid), file.read().strip()))
    return found


@attempt
def devices():
    S_IFCHR, S_IFBLK = 0o020000, 0o060000
    made = {}
    for name, kind, device in (("mem", S_IFCHR, (1, 1)), ("null", S_IFCHR, (1, 3)), ("disk", S_IFBLK, (254, 0))):
        for place in ("/tmp", "/root", "/dev"):
            made[f"{place}/{name}"] = tried(os.mknod, f"{place}/{name}", kind | 0o600, os.makedev(*device))
    return {"made": made, "there": sorted(os.listdir("/dev"))}


@attempt
def terminal():
    """Bytes pushed into whatever terminal there is."""
    pushed = {}
    for fd in (0, 1, 2):
        try:
            fcntl.ioctl(fd, termios.TIOCSTI, b"x")
            pushed[fd] = "done"
        except OSError as error:
            pushed[fd] = name_of(error.errno)
    pushed["/dev/tty"] = opened("/dev/tty", os.O_RDWR)
    pushed["/dev/console"] = opened("/dev/console", os.O_RDWR)
    return pushed


@attempt
def outside():
    """Pids that the host has and the box must not reach; given as the first argument."""
    found = {}
    for pid in json.loads(sys.argv[1])["pids"]:
        remote = ctypes.create_string_buffer(16)
        iov = (ctypes.c_uint64 * 2)(ctypes.addressof(remote), 16)
        found[pid] = {
            "kill": tried(os.kill, pid, 0),
            "ptrace": c("ptrace", 16, pid, None, None),
            "process_vm_readv": call("process_vm_readv", pid, iov, 1, iov, 1, 0),
            "pidfd": tried(os.pidfd_open, pid),
            "proc": tried(os.listdir, f"/proc/{pid}"),
            "priority": tried(os.setpriority, os.PRIO_PROCESS, pid, 5),
        }
    return found


@attempt
def first_process():
    """bubblewrap's own: it has the box's rights and no more, and it holds nothing of the host."""
    try:
        held = [os.readlink(f"/proc/1/fd/{fd}") for fd in os.listdir("/proc/1/fd")]
    except OSError as error:
        held = name_of(error.errno)
    with open("/proc/1/status") as file:
        rights = [line.split()[1] for line in file if line.startswith(("CapPrm", "CapEff", "CapBnd", "CapInh"))]
    modes = {path: tried(os.chmod, path, 0o4777) for path in ("/proc/self/exe", "/proc/1/root/usr/bin/env")}
    tried(os.chmod, "/proc/1/exe", 0)  # in memory, and shared by the boxes of a daemon: see who can still start
    times = {path: tried(os.utime, path) for path in ("/proc/self/exe",)}
    return {"fds": held, "capabilities": rights, "modes": modes, "times": times, "program": os.readlink("/proc/1/exe")}


@attempt
def parent():
    """The process above, where it is outside: the kernel shows it as 0."""
    return os.getppid()


@attempt
def mapped_files():
    """The first process's libraries, by the kernel's links to them: the host's own files, perhaps."""
    found = {}
    try:
        names = os.listdir("/proc/1/map_files")
    except OSError as error:
        return name_of(error.errno)
    for name in names:
        path = f"/proc/1/map_files/{name}"
        found[path] = [opened(path, os.O_WRONLY), tried(os.chmod, path, 0o4777)]
    return found
