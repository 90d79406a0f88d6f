"""Attempts on mounts, and on what the kernel shows in /proc and /sys."""

import ctypes
import os
import platform

from tests.integration.escape.calls import attempt, c, call, name_of, opened, tried


@attempt
def mounts():
    """Every mount: (where, is it read-only, type)."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            words = left.split()
            read_only = "ro" in words[5].split(",") or "ro" in right.split()[2].split(",")
            found.append((words[4], read_only, right.split()[0]))
    return found


@attempt
def mounting():
    MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_SHARED = 32, 4096, 8192, 16384, 1 << 20
    return {
        "tmpfs": c("mount", b"x", b"/tmp", b"tmpfs", 0, None),
        "proc": c("mount", b"proc", b"/tmp", b"proc", 0, None),
        "sysfs": c("mount", b"sysfs", b"/tmp", b"sysfs", 0, None),
        "cgroup2": c("mount", b"x", b"/tmp", b"cgroup2", 0, None),
        "cgroup": c("mount", b"x", b"/tmp", b"cgroup", 0, b"memory"),
        "bind": c("mount", b"/usr", b"/tmp", None, MS_BIND, None),
        "remount": c("mount", None, b"/usr", None, MS_REMOUNT | MS_BIND, None),
        "remount /": c("mount", None, b"/", None, MS_REMOUNT | MS_BIND, None),
        "remount /proc/sys": c("mount", None, b"/proc/sys", None, MS_REMOUNT | MS_BIND, None),
        "move": c("mount", b"/tmp", b"/root", None, MS_MOVE, None),
        "shared": c("mount", None, b"/", None, MS_SHARED | MS_REC, None),
        "umount": c("umount2", b"/proc/sys", 0),
        "umount detached": c("umount2", b"/usr", 2),
        "pivot_root": call_pivot(),
        "chroot": tried(os.chroot, "/tmp"),
        "fsopen": call("fsopen", b"tmpfs", 0),
        "open_tree": call("open_tree", -100, b"/usr", 1),
        "move_mount": call("move_mount", -100, b"/tmp", -100, b"/root", 0),
        "mount_setattr": call("mount_setattr", -100, b"/usr", 0, ctypes.create_string_buffer(32), 32),
    }


def call_pivot():
    return c("syscall", 155 if platform.machine() == "x86_64" else 41, b"/tmp", b"/tmp")


@attempt
def writable_directories():
    """Directories where a file could be made, but for the processes' own in /proc."""
    found = []
    for place, directories, _files in os.walk("/"):
        directories[:] = [name for name in directories if not (place == "/proc" and name.isdigit())]
        if place in ("/usr", "/proc/sys"):
            directories[:] = directories[:3] if os.statvfs(place).f_flag & os.ST_RDONLY else directories
        if place.startswith(("/proc/self", "/proc/thread-self")):
            directories[:] = []
            continue
        path = os.path.join(place, ".escape")
        if tried(lambda path=path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))) == "done":
            os.unlink(path)
            found.append(place)
    return found


@attempt
def kernel_files():
    """What opens of /proc beside the processes: for writing; and for reading, of what is root's alone."""
    writable, secret = [], []
    for place, directories, files in os.walk("/proc"):
        directories[:] = [name for name in directories if not name.isdigit() and name not in ("self", "thread-self")]
        for name in files:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if mode & 0o222 and opened(path, os.O_WRONLY) == "done":
                writable.append(path)
            if mode & 0o444 and not mode & 0o044 and opened(path, os.O_RDONLY, 16) == "done":
                secret.append(path)
    return {"writable": writable, "secret": secret}


@attempt
def named_kernel_files():
    paths = (
        "kcore",
        "kmsg",
        "kallsyms",
        "keys",
        "key-users",
        "sysrq-trigger",
        "timer_list",
        "iomem",
        "slabinfo",
        "1/mem",
        "1/environ",
    )
    return {path: opened(f"/proc/{path}", os.O_RDONLY, 1) for path in paths}


@attempt
def kernel_addresses():
    """Symbols with an address that is no zero."""
    try:
        with open("/proc/kallsyms") as file:
            return sum(1 for line in file if int(line.split()[0], 16))
    except OSError as error:
        return name_of(error.errno)


@attempt
def sys_is_there():
    return os.path.isdir("/sys") and os.listdir("/sys")


@attempt
def programs_of_the_host():
    """Our own program and that of the box's first process: opened for writing."""
    return {path: opened(path, os.O_WRONLY) for path in ("/proc/self/exe", "/proc/1/exe", "/proc/1/root/usr/bin/env")}
