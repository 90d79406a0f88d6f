"""A shim that is held by its pidfd is alive for as long as it lives, and no descriptor is lost over it."""

from __future__ import annotations

import pytest

from boxlited.supervisor.identity import PidfdHandle, reopen
from boxlited.supervisor.kernel import ExitStatus
from tests.unit.fake_kernel import FakeKernel


@pytest.fixture
def kernel() -> FakeKernel:
    fake = FakeKernel()
    fake.add(500, start_time=77, inode=9)
    return fake


def hold(kernel: FakeKernel) -> PidfdHandle:
    return PidfdHandle(kernel, 500, kernel.pidfd_open(500), 9)


def test_a_live_process_is_opened_again(kernel: FakeKernel) -> None:
    held = hold(kernel)
    again = reopen(kernel, held)
    assert again is not None
    assert (again.pid, again.inode) == (500, 9)
    assert again.pidfd != held.pidfd
    assert len(kernel.open_fds) == 2


@pytest.mark.parametrize("end", ["reaped", "zombie", "reused"])
def test_a_process_that_ended_is_not(kernel: FakeKernel, end: str) -> None:
    held, process = hold(kernel), kernel.processes[500]
    process.ended = ExitStatus(signal=9)
    if end == "zombie":
        process.state = "Z"
    else:
        process.reaped = True
    if end == "reused":
        kernel.add(500, start_time=77, inode=10)
    assert reopen(kernel, held) is None
    assert list(kernel.open_fds) == [held.pidfd]


@pytest.mark.parametrize("call", ["pidfd_open", "proc_stat", "pidfd_signal"])
def test_an_error_proves_nothing_and_is_passed_on(kernel: FakeKernel, call: str) -> None:
    held = hold(kernel)
    kernel.failures[call] = OSError(24, "Too many open files")
    with pytest.raises(OSError, match="Too many"):
        reopen(kernel, held)
    assert list(kernel.open_fds) == [held.pidfd]
