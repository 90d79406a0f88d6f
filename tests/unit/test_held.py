"""A shim that is held by its pidfd is alive for as long as it lives, and no descriptor is lost over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxlited.model import Box, BoxID, BoxSpec
from boxlited.supervisor.apply import Applier
from boxlited.supervisor.identity import PidfdHandle, reopen
from boxlited.supervisor.kernel import ExitStatus
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.runtime import BoxRuntime
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


RUN = "0123456789abcdef" * 2
SPEC = b'{"version": 1, "box_id": "%s", "run_id": "%s"}'


@pytest.mark.parametrize(
    ("sealed", "run_id"),
    [
        (SPEC % (b"a" * 16, RUN.encode()), RUN),
        (SPEC % (b"b" * 16, RUN.encode()), None),  # of another box
        (SPEC % (b"a" * 16, b"../" * 8), None),
        (b'{"box_id": "%s"}' % (b"a" * 16), None),
        (b'["%s"]' % (b"a" * 16), None),
        (b"[" * 100_000, None),
        (b"\xff\0", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_run_of_a_live_shim_is_what_its_sealed_spec_says(
    kernel: FakeKernel, sealed: bytes | None, run_id: str | None
) -> None:
    kernel.processes[500].sealed = sealed
    assert hold(kernel).run_of("a" * 16) == run_id


def test_a_spec_of_who_took_over_the_pid_meanwhile_says_nothing(kernel: FakeKernel) -> None:
    held = hold(kernel)
    kernel.processes[500].sealed = SPEC % (b"a" * 16, RUN.encode())

    def end() -> None:
        kernel.processes[500].reaped = True

    kernel.around = ("sealed_input", "after", end)
    assert held.run_of("a" * 16) is None


@pytest.mark.parametrize("call", ["pidfd_open", "proc_stat", "pidfd_signal"])
def test_an_error_proves_nothing_and_is_passed_on(kernel: FakeKernel, call: str) -> None:
    held = hold(kernel)
    kernel.failures[call] = OSError(24, "Too many open files")
    with pytest.raises(OSError, match="Too many"):
        reopen(kernel, held)
    assert list(kernel.open_fds) == [held.pidfd]


@pytest.mark.parametrize("when", ["before", "after", None])
def test_no_pid_file_is_written_anew_for_one_that_took_over_the_pid_meanwhile(
    kernel: FakeKernel, tmp_path: Path, when: str | None
) -> None:
    box = Box(box_id=BoxID.parse("a" * 16), name="web", spec=BoxSpec(image="host"))
    home = HomeLayout(tmp_path)
    home.box(box.box_id).directory.mkdir(parents=True)
    runtime = BoxRuntime(box.box_id, lambda _handle: None)
    runtime.handle = hold(kernel)

    def change_hands() -> None:
        kernel.processes[500].reaped = True
        kernel.add(500, start_time=99, inode=10)

    if when is not None:
        kernel.around = ("proc_stat", when, change_hands)
    restore(kernel, home, runtime, box)
    path = home.box(box.box_id).pid_file
    assert (path.read_text() if path.exists() else None) == ("500\n77\n" if when is None else None)


def restore(kernel: FakeKernel, home: HomeLayout, runtime: BoxRuntime, box: Box) -> None:
    """Only the part that writes the pid file."""

    class Runtimes:
        def runtime(self, _box_id: BoxID) -> BoxRuntime:
            return runtime

    applier = Applier.__new__(Applier)
    applier._kernel, applier._home, applier._ledger = kernel, home, Runtimes()  # type: ignore[assignment]
    applier._restore_pid_file(box)
