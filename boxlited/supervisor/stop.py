"""The one way a shim is brought down: ask, insist, force. Only through a verified pidfd.

Owns the escalation. Writes the intent before the first signal, so that a daemon killed in
between resumes the stop. Needs no disk: a full one delays the record, not the stop.
"""

from __future__ import annotations

import signal
from contextlib import suppress

import structlog
import trio

from boxlited.errors import InvalidState, ResourceExhausted, Timeout
from boxlited.failpoints import hit
from boxlited.model import Box, BoxStatus, Desired, EventKind, StopCause
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.patience import Patience
from boxlited.supervisor.runtime import BoxRuntime

DELIVER_BASE = 33  # real-time signal 33+n asks the shim to deliver signal n to its workload
INSIST_SECONDS = 2.0
FORCE_SECONDS = 5.0

log = structlog.get_logger()


class Drainer:
    def __init__(self, ledger: Ledger, own_engines: frozenset[str]) -> None:
        self._ledger = ledger
        self._own_engines = own_engines

    async def drain(
        self,
        box: Box,
        handle: PidfdHandle,
        dead: trio.Event,
        grace_seconds: float,
        cause: StopCause,
        wanted: Desired,
        patience: Patience,
    ) -> None:
        """Stop a live shim and its workload; returns when the shim is proven dead. `wanted`: of the box, after it.

        `grace_seconds` 0 kills at once; `patience` may make it less. Raises Timeout when even SIGKILL did not end it.
        Cancellation leaves `stopping` in the row; the next pass goes on.
        """
        await self._record_intent(box, cause, wanted)
        hit("stop.after_intent")
        if patience.least(grace_seconds) > 0:
            _send(handle, signal.SIGTERM)
            hit("stop.after_signal")
            with patience.asking(grace_seconds):
                await dead.wait()
            if dead.is_set():
                return
            log.warning("box ignores its stop signal, killing it", box_id=box.box_id, grace=grace_seconds)
        await self.force(box, handle, dead)

    async def force(self, box: Box, handle: PidfdHandle, dead: trio.Event) -> None:
        """Kill the workload through its shim, then the shim itself. Raises Timeout."""
        if self._speaks_our_signals(box):
            with suppress(ResourceExhausted):  # its queue of real-time signals may be full
                _send(handle, DELIVER_BASE + signal.SIGKILL)
            hit("stop.after_insist")
            if await _ended(dead, INSIST_SECONDS):
                return
            log.warning("shim is deaf, killing it", box_id=box.box_id, pid=handle.pid)
        _send(handle, signal.SIGKILL)
        if not await _ended(dead, FORCE_SECONDS):
            raise Timeout(
                f"the shim of box {box.name} (pid {handle.pid}) did not end {FORCE_SECONDS:g} s after SIGKILL:"
                " it may hang in the kernel (state D). The box stays `stopping` and is tried again"
            )

    def deliver(self, box: Box, handle: PidfdHandle, number: int) -> None:
        """Deliver a signal to the workload (to the shim itself where it is a foreign one).

        Raises InvalidState when it has ended meanwhile.
        """
        if not _send(handle, DELIVER_BASE + number if self._speaks_our_signals(box) else number):
            raise InvalidState(f"box {box.name} has just ended: there is nothing to signal")

    def _speaks_our_signals(self, box: Box) -> bool:
        return box.spec.engine in self._own_engines and box.run_id is not None

    async def _record_intent(self, box: Box, cause: StopCause, wanted: Desired) -> None:
        if box.status is BoxStatus.STOPPING and box.desired is wanted:
            return
        changes = {"status": BoxStatus.STOPPING, "desired": wanted, "stop_cause": cause}
        await self._ledger.write(
            box, changes, EventKind.STOPPING, {"cause": cause.value, "pid": box.pid}, durable=False
        )


def _send(handle: PidfdHandle, number: int) -> bool:
    """False when the process was reaped already: what a signal would bring about has come about.

    Raises ResourceExhausted when the kernel has no room for the signal.
    """
    try:
        handle.signal(number)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise ResourceExhausted(
            f"signal {number} could not be sent to the shim (pid {handle.pid}): {error.strerror}: retry"
        ) from error
    return True


async def _ended(dead: trio.Event, seconds: float) -> bool:
    with trio.move_on_after(seconds):
        await dead.wait()
    return dead.is_set()


def dead_event(runtime: BoxRuntime) -> trio.Event:
    """The event that the watcher sets for the runtime's handle."""
    if runtime.dead is None:
        runtime.dead = trio.Event()
    return runtime.dead
