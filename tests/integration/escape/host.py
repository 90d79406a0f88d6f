"""What of the host a process in the box has, or sees."""

import json
import os
import sys

from tests.integration.escape.calls import attempt, opened


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
