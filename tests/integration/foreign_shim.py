"""A shim program of somebody else, as the contract asks for it; the box's command says how it behaves.

Executed by the daemon's tests: the spec on descriptor 0, one line on descriptor 3, an exit file.
Standard library only, and nothing of ours.
"""

import fcntl
import json
import os
import signal
import sys
from typing import Any

F_GET_SEALS = 1034
READY_FD = 3


def main() -> int:
    with open("/proc/self/comm", "w") as comm:
        comm.write("boxlited-shim")  # the tests look for it by this name
    spec: dict[str, Any] = json.loads(os.pread(0, os.fstat(0).st_size, 0))
    report(spec)
    return BEHAVIOUR[spec["argv"][0]](spec)


def report(spec: dict[str, Any]) -> None:
    """What this process was given, for the test to judge."""
    held = {fd: link(fd) for fd in range(256) if link(fd)}
    found = {
        "spec": spec,
        "seals": fcntl.fcntl(0, F_GET_SEALS),
        "position": os.lseek(0, 0, os.SEEK_CUR),
        "writable": writes(0),
        "descriptors": held,
        "argv": sys.orig_argv,
        "environ": text("/proc/self/environ"),
        "session": os.getsid(0) == os.getpid(),
        "pid_file": text(os.path.join(os.path.dirname(spec["paths"]["exit"]), "shim.pid")),
    }
    with open(os.path.join(spec["paths"]["tmp"], "report.new"), "w") as file:
        json.dump(found, file)
    os.rename(file.name, os.path.join(spec["paths"]["tmp"], "report"))


def text(path: str) -> str:
    with open(path) as file:
        return file.read()


def link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def writes(fd: int) -> bool:
    try:
        return os.pwrite(fd, b"x", 0) == 1
    except OSError:
        return False


def say(line: str) -> None:
    os.write(READY_FD, line.encode())
    os.close(READY_FD)


def record(spec: dict[str, Any], **content: Any) -> None:
    path = spec["paths"]["exit"]
    with open(f"{path}.new", "w") as file:
        json.dump({**content, "run_id": spec["run_id"]}, file)
    os.rename(f"{path}.new", path)


def wait_for_the_end(spec: dict[str, Any]) -> int:
    """SIGTERM ends it well, SIGUSR1 is a crash."""
    number = signal.sigwait({signal.SIGTERM, signal.SIGUSR1})
    if number == signal.SIGTERM:
        record(spec, type="exited", exit_code=0)
        return 0
    record(spec, type="panic", exit_code=101, message="the guest is gone", location="vmm.rs:1:2")
    return 101


def serve(spec: dict[str, Any]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    say('{"ready": true, "workload_pid": 1, "not_applied": ["cpus: not in this machine"]}\n')
    return wait_for_the_end(spec)


def mute(spec: dict[str, Any]) -> int:
    """Knows nothing of a ready line."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    os.close(READY_FD)
    return wait_for_the_end(spec)


def deaf(spec: dict[str, Any]) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say('{"ready": true}\n')
    signal.pause()
    return 0


def leave(spec: dict[str, Any]) -> int:
    """Ends on SIGUSR1, and whoever comes after it records how."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    say('{"ready": true}\n')
    signal.sigwait({signal.SIGUSR1})
    return 3


def stuck(spec: dict[str, Any]) -> int:
    """Never says anything, and keeps the descriptor open."""
    signal.pause()
    return 0


def refuse(spec: dict[str, Any]) -> int:
    say('{"ready": false, "error_kind": "unsupported", "message": "no /dev/kvm here"}\n')
    return 1


def die(spec: dict[str, Any]) -> int:
    os.write(2, b"out of luck\n")
    return 3


def die_with_a_reason(spec: dict[str, Any]) -> int:
    record(spec, type="error", exit_code=1, message="the kernel image is broken", error_kind="image")
    return 1


def babble(spec: dict[str, Any]) -> int:
    say("ready? [[[[ \xff\n")
    signal.pause()
    return 0


BEHAVIOUR = {
    function.__name__: function
    for function in (serve, mute, deaf, leave, stuck, refuse, die, die_with_a_reason, babble)
}

if __name__ == "__main__":
    sys.exit(main())
