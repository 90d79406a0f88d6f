"""A signal that meets a process which has just ended: no error of ours, and nothing is left undone."""

from __future__ import annotations

import subprocess
from typing import Any, cast

import pytest
import trio

from boxlited.errors import InvalidState
from boxlited.model import Box, BoxID, BoxSpec, BoxStatus, Desired, StopCause, mint_run_id
from boxlited.supervisor.engines import OWN_ENGINES
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.kernel import Kernel
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.patience import Patience
from boxlited.supervisor.stop import Drainer


class Written:
    """The ledger's one method that a drain calls, noting what was written."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    async def write(self, box: Box, changes: dict[str, Any], *_: object, **__: object) -> Box:
        self.rows.append(changes)
        return box


@pytest.fixture
def reaped() -> PidfdHandle:
    """A handle of a process that is gone altogether: the kernel answers ESRCH."""
    kernel = Kernel()
    process = subprocess.Popen(["/bin/sleep", "100"])
    handle = PidfdHandle(kernel, process.pid, kernel.pidfd_open(process.pid), None)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        handle.signal(0)
    return handle


def running() -> Box:
    return Box(
        box_id=BoxID.mint(),
        name="b",
        spec=BoxSpec(image="host"),
        created_at=0.0,
        updated_at=0.0,
        status=BoxStatus.RUNNING,
        desired=Desired.RUNNING,
        run_id=mint_run_id(),
    )


def seen_dead() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@pytest.mark.parametrize("grace", [0.0, 10.0])
async def test_stop_of_a_shim_that_has_just_been_reaped(reaped: PidfdHandle, grace: float) -> None:
    written = Written()
    drainer = Drainer(cast(Ledger, written), OWN_ENGINES)
    await drainer.drain(running(), reaped, seen_dead(), grace, StopCause.USER, Desired.STOPPED, Patience())
    assert written.rows[0]["status"] is BoxStatus.STOPPING
    reaped.close()


async def test_a_signal_for_a_workload_that_has_just_ended_says_so(reaped: PidfdHandle) -> None:
    drainer = Drainer(cast(Ledger, Written()), OWN_ENGINES)
    with pytest.raises(InvalidState, match="just ended"):
        drainer.deliver(running(), reaped, 10)
    reaped.close()
