"""How the shim finds its workload from what bubblewrap reports, and its end where the kernel does not tell it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from boxlited import failpoints
from boxlited.shim.console import Console
from boxlited.shim.main import _check_failed_start
from boxlited.shim.workload import Workload
from tests.integration.daemon_harness import Daemon


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
