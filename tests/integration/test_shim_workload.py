"""How the shim finds its workload from what bubblewrap reports, and its end where the kernel does not tell it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from boxlited import failpoints
from boxlited.client import Client
from boxlited.errors import BoxlitedError
from boxlited.shim.console import Console
from boxlited.shim.main import _check_failed_start
from boxlited.shim.workload import Workload
from tests.integration.daemon_harness import Daemon, until
from tests.integration.test_lifecycle import workload_of

PYTHON = shutil.which("python3", path="/usr/bin")


def ended_child(code: int = 0) -> int:
    """The pid of a child of ours that has ended and is not reaped, as a wrapper that was quick."""
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


@pytest.mark.parametrize(
    ("reported", "ran"),
    [
        pytest.param(['{ "child-pid": %d }\n{ "exit-code": 0 }\n'], True, id="both in one read"),
        pytest.param(['{ "child-pid": %d }\n', '{ "exit-code": 0 }\n'], True, id="one after the other"),
        pytest.param(['{ "child-pid": %d }\n'], False, id="set up, but never told of an end"),
        pytest.param([], False, id="silent"),
    ],
)
def test_a_life_that_nobody_saw_is_known_by_its_report(reported: list[str], ran: bool) -> None:
    outer = ended_child()
    info, told = os.pipe()
    output, workload_end = os.pipe()
    try:
        for text in reported:
            os.write(told, (text % outer if "%d" in text else text).encode())
        os.close(told)
        workload = Workload(outer, output)
        workload._find(info)
        assert workload.ran is ran
        assert workload.pidfd == -1
        assert workload.status() == (0, True)
        os.close(workload.outer_fd)
    finally:
        for fd in (info, output, workload_end):
            os.close(fd)


def test_a_wrapper_that_is_slow_to_tell_a_short_life_is_heard_and_not_killed(tmp_path: Path) -> None:
    """Where the kernel does not say how the workload ended. In a fork, whose children are all of them the shim's."""
    pid = os.fork()
    if pid == 0:
        try:
            failpoints.load(f"shim.exit_info=error:{errno.ENOTTY}")
            os._exit(told_of_a_short_life(tmp_path))
        finally:
            os._exit(99)
    assert os.waitpid(pid, 0)[1] == 0


def told_of_a_short_life(directory: Path) -> int:
    """0 when it is told as its wrapper tells it: ended with code 3."""
    workload_pid = ended_child(3)
    outer = os.fork()
    if outer == 0:
        time.sleep(0.3)  # longer than a shim waits for one that has nothing left to say
        os._exit(3)
    output, workload_end = os.pipe()
    os.close(workload_end)
    workload = Workload(outer, output)
    workload.pid, workload.pidfd, workload.ran = workload_pid, os.pidfd_open(workload_pid), True
    console = Console(str(directory / "console.log"), 1 << 20, 1)
    _check_failed_start({"argv": ["/bin/true"]}, workload, console)
    raw, certain = workload.status()
    return 0 if (os.waitstatus_to_exitcode(raw), certain) == (3, True) else 1


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errno.ENOTTY, id="before Linux 6.15, as on stock Debian 12"),
        pytest.param(errno.ESRCH, id="asked in the moment in which it is reaped"),
    ],
)
@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_ends_are_told_right_where_the_kernel_does_not_say_how_a_process_ended(engine: str, error: int) -> None:
    with Daemon("[engines]\nenabled = ['sandbox', 'process']\n") as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": f"shim.exit_info=error:{error}"})
        ends = {}
        for script in ("exit 0", "exit 3", "kill -TERM $$", "kill -KILL $$"):
            box = daemon.run(["/bin/sh", "-c", f"sleep 0.2; {script}"], engine=engine)
            row = daemon.wait_status(box["box_id"], "stopped", "failed")
            ends[script] = (row["stop_cause"], row["exit_code"])
        stopped = daemon.run(engine=engine)
        row = dict(daemon.client.stop(stopped["box_id"], timeout_seconds=5))
    assert ends == {
        "exit 0": ("exited", 0),
        "exit 3": ("exited", 3),
        "kill -TERM $$": ("crashed", 143),
        "kill -KILL $$": ("crashed", 137),
    }
    assert (row["status"], row["stop_cause"], row["exit_code"]) == ("stopped", "user", 143)


FIRST_THREAD_ENDS = """
import ctypes, os, platform, threading, time
def other():
    while not os.path.exists("/tmp/enough of it"):
        time.sleep(0.01)
    os._exit(3)
threading.Thread(target=other).start()
ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)  # the exit of one thread
"""


def test_a_program_whose_first_thread_ended_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS]) as process:
        try:
            until(lambda: " Z " in Path(f"/proc/{process.pid}/stat").read_text(), "its first thread ends")
            assert _seen(process.pid)
        finally:
            process.kill()
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not _seen(process.pid)


def _seen(pid: int) -> bool:
    workload = Workload(pid, -1)
    workload.pid, workload.pidfd = pid, os.pidfd_open(pid)
    workload._await_exec(time.monotonic() + 5)
    os.close(workload.pidfd)
    os.close(workload.outer_fd)
    return workload.exec_seen


@pytest.mark.skipif(PYTHON is None, reason="needs /usr/bin/python3 in the box")
def test_a_box_lives_and_takes_commands_as_long_as_any_thread_of_its_workload_lives() -> None:
    with Daemon() as daemon:
        box = daemon.start().run(["/usr/bin/python3", "-c", FIRST_THREAD_ENDS])
        workload = workload_of(box["pid"])
        until(lambda: " Z " in Path(f"/proc/{workload}/stat").read_text(), "its first thread ends")
        assert daemon.get(box["box_id"])["status"] == "running"
        assert daemon.client.run_command(box["box_id"], ["echo", "in"]).stdout == b"in\n"
        with suppress(BoxlitedError):  # the box may end before the answer
            daemon.client.exec(box["box_id"], "touch", "/tmp/enough of it")
        row = daemon.wait_status(box["box_id"], "stopped", "failed")
    assert (row["stop_cause"], row["exit_code"]) == ("exited", 3)


def test_what_cannot_be_executed_is_refused_each_time() -> None:
    """It is ending just while it is looked at, now here, now there."""
    with Daemon() as daemon:
        daemon.start()

        def is_refused(_number: int) -> bool:
            with Client(daemon.socket) as client:
                box = client.create({"image": "host", "cmd": ["no-such-command"]})
                try:
                    client.start(box["box_id"])
                except BoxlitedError as error:
                    return "cannot be executed" in error.message
            return False

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(is_refused, range(120)))
