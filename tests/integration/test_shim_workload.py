"""How the shim finds its workload from what bubblewrap reports, also when the life was very short."""

from __future__ import annotations

import os

import pytest

from boxlited.shim.workload import Workload


def ended_child() -> int:
    """The pid of a child of ours that has ended and is not reaped, as a wrapper that was quick."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
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
