"""Attempts on keyrings, privileges, namespaces, identities, and the machine as a whole."""

import ctypes
import json
import os
import signal
import socket
import sys

from tests.integration.escape.calls import LIBC, NUMBERS, attempt, c, call, in_child, name_of, opened, tried


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
