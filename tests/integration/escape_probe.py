"""Runs inside a box and tries to get out: each function is one attempt, and what it returns goes out as JSON.

Standard library only, and nothing of ours: the box has the host's Python and no more. An attempt that the
kernel refuses returns the name of the errno; one that is let through says so, for a test outside to judge.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import socket
import struct
import sys
import termios

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


# -- mounts


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


# -- /proc and /sys


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


@attempt
def processes():
    """(pid, command) of all that is visible."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with open(f"/proc/{pid}/comm") as file:
            found.append((int(pid), file.read().strip()))
    return found


# -- devices


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


# -- other processes


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


# -- keyrings


@attempt
def keyrings():
    PROCESS, SESSION, USER = -2, -3, -4
    found = {
        "add_key": call("add_key", b"user", b"boxlited-test-inside", b"x", 1, PROCESS),
        "request_key": call("request_key", b"user", b"boxlited-test-secret", None, 0),
        "session": call("keyctl", 0, SESSION, 0),
        "user": call("keyctl", 0, USER, 0),
        "join": call("keyctl", 1, None),
    }
    for serial in json.loads(sys.argv[1])["keys"]:
        found[f"link {serial}"] = call("keyctl", 8, serial, PROCESS, 0)
        found[f"read {serial}"] = call("keyctl", 11, serial, ctypes.create_string_buffer(64), 64)
    return found


# -- privileges


@attempt
def privileges():
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    keys = ("NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Uid", "Gid", "Groups", "Seccomp")
    return {key: status.get(key, "") for key in keys}


@attempt
def namespaces():
    flags = {"user": 0x10000000, "mnt": 0x20000, "net": 0x40000000, "pid": 0x20000000, "uts": 0x4000000,
             "ipc": 0x8000000, "cgroup": 0x2000000, "time": 0x80}  # fmt: skip
    found = {name: in_child(lambda flag=flag: c("unshare", flag)) for name, flag in flags.items()}
    found["clone user"] = in_child(clone_user)
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY) if opened("/proc/1/ns/mnt") == "done" else -1
    found["setns 1"] = in_child(lambda: call("setns", fd, 0))
    return found


def clone_user():
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    number = NUMBERS["clone3"][0]
    ctypes.set_errno(0)
    pid = LIBC.syscall(number, arguments, 88)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return "done" if pid > 0 else name_of(ctypes.get_errno())


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


@attempt
def set_id_programs():
    """Programs of the host that gain rights elsewhere: whether their file system lets them here."""
    found = {}
    for name in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp"):
        if os.path.exists(name):
            found[name] = bool(os.statvfs(name).f_flag & os.ST_NOSUID)
    return found


@attempt
def identities():
    return {
        "setuid": in_child(lambda: tried(os.setuid, 4242)),
        "setgid": in_child(lambda: tried(os.setgid, 4242)),
        "setgroups": in_child(lambda: tried(os.setgroups, [4242])),
        "chown": tried(os.chown, "/tmp", 4242, 4242),
    }


# -- the machine


@attempt
def machine():
    return {
        "clock": c("settimeofday", ctypes.byref((ctypes.c_int64 * 2)(1_000_000_000, 0)), None),
        "clock_settime": tried(lambda: __import__("time").clock_settime(0, 1e9)),
        "reboot": call("reboot", 0xFEE1DEAD, 672274793, 0, None),
        "syslog": call("syslog", 3, ctypes.create_string_buffer(16), 16),
        "syslog clear": call("syslog", 5, None, 0),
        "kexec_load": call("kexec_load", 0, 0, None, 0),
        "init_module": call("init_module", b"", 0, b""),
        "swapon": call("swapon", b"/tmp/x", 0),
        "acct": call("acct", None),
        "bpf": call("bpf", 0, ctypes.create_string_buffer(b"\x01\0\0\0\x04\0\0\0\x04\0\0\0\x01\0\0\0", 64), 64),
        "open_by_handle_at": call(
            "open_by_handle_at", -100, ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0", 64), 0
        ),
        "sethostname": tried(socket.sethostname, "escaped"),
        "nice": in_child(lambda: tried(os.nice, -5)),
        "realtime": in_child(lambda: tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))),
        "rlimit": in_child(raise_limit),
    }


def raise_limit():
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    except (ValueError, OSError):
        return "EPERM"
    return "done"


@attempt
def left_to_the_kernel():
    """What the host's kernel allows to any process of its own: told, not judged."""
    return {
        "perf_event_open": call(
            "perf_event_open", ctypes.create_string_buffer(b"\1\0\0\0\x80\0\0\0", 128), 0, -1, -1, 0
        ),
        "userfaultfd": call("userfaultfd", 1),
        "io_uring_setup": call("io_uring_setup", 4, ctypes.create_string_buffer(120)),
    }


# -- network


@attempt
def network():
    hosts = json.loads(sys.argv[1])
    return {
        "interfaces": [name for _index, name in socket.if_nameindex()],
        "abstract": tried(connect, "\0" + hosts["abstract"]),
        "loopback": tried(connect, ("127.0.0.1", hosts["port"])),
        "out": tried(datagram, ("192.0.2.1", 9)),
        "routes": routes(),
        "raw": tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet": tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
        "vsock": tried(vsock),
        "audit": tried(netlink, 9),
        "new interface": add_interface(),
    }


def connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(2)
        sock.connect(address)


def datagram(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", address)


def vsock():
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect((2, 1))


def netlink(protocol):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.bind((0, 1))
        sock.send(struct.pack("=IHHIIi", 20, 1001, 5, 1, 0, 0))
        answer = sock.recv(4096)
        code = struct.unpack_from("=i", answer, 16)[0]
        if code < 0:
            raise OSError(-code, "refused")


def routes():
    with open("/proc/net/route") as file:
        return len(file.readlines()) - 1


def add_interface():
    """A dummy interface, asked of the kernel over netlink."""
    name = struct.pack("HH8s", 12, 3, b"esc0\0")
    kind = struct.pack("HH8s", 10, 1, b"dummy\0")
    info = struct.pack("HH", 4 + len(kind), 18) + kind
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + name + info
    head = struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(head + body)
        code = struct.unpack_from("=i", sock.recv(4096), 16)[0]
    return name_of(-code) if code < 0 else "done"


# -- files of the host


@attempt
def paths():
    return {path: os.path.lexists(path) for path in json.loads(sys.argv[1])["paths"]}


@attempt
def descriptors():
    found = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the listing's own
            continue
    return found


@attempt
def session():
    return {"sid": os.getsid(0), "pid": os.getpid(), "controlling": opened("/dev/tty", os.O_RDWR)}


@attempt
def cgroups():
    found = {"there": os.path.isdir("/sys/fs/cgroup")}
    with open("/proc/self/cgroup") as file:
        found["own"] = [line.split(":", 2)[2].strip() for line in file]
    return found


@attempt
def environment():
    return dict(os.environ)


def main():
    results = {}
    for function in ATTEMPTS:
        try:
            results[function.__name__] = function()
        except Exception as error:
            results[function.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))


if __name__ == "__main__":
    main()
