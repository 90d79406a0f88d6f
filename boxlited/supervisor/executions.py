"""Commands beside a box's workload, as the API sees them. The shim owns them; nothing of them is kept here.

Every question opens a channel on which shim and daemon prove themselves anew. A shim that cannot is
Unknown from then on, and is not driven: no signal, no second start, until it proves itself or ends.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
import trio

from boxlited.errors import BoxlitedError, EngineUnavailable, InvalidState, Stopped, Unsupported
from boxlited.failpoints import hit
from boxlited.model import Box, BoxID, BoxStatus, ExecSpec, StopCause
from boxlited.shim import proof
from boxlited.shim.frames import OFFSET, Kind
from boxlited.shim.streams import STDIN_WINDOW_BYTES
from boxlited.supervisor import words
from boxlited.supervisor.channel import Channel, ShimUnproven, open_channel
from boxlited.supervisor.kernel import KernelProtocol
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.ledger import Ledger
from boxlited.supervisor.stop import dead_event

ENDING_SECONDS = 0.2
STDIN_FRAME_BYTES = 64 * 1024
TOUCHED_SHARE = 4  # an idle time is noted anew when this part of it is over
STARTABLE = frozenset({BoxStatus.CONFIGURED, BoxStatus.STOPPED, BoxStatus.FAILED})

log = structlog.get_logger()

Move = Callable[[str], Awaitable[Box]]
Look = Callable[[BoxID], Awaitable[None]]


class Attachment:
    """The stream of one execution. `receive` and the other methods may be used by two tasks at once."""

    def __init__(self, channel: Channel, position: int, queued: int) -> None:
        """`queued`: input of a client before this one that the command did not take yet."""
        self.position = position  # of the next byte, counted over both channels from the beginning
        self._channel = channel
        self._sending = trio.Lock()
        self._sent, self._taken = queued, 0  # bytes of input
        self._took = trio.Event()

    async def receive(self) -> tuple[Kind, bytes] | None:
        """STDOUT, STDERR, NOTICE or EXIT, the last one; None when the shim is gone. Raises EngineUnavailable."""
        while (found := await self._channel.receive()) is not None:
            kind, payload = Kind(found[0]), found[1]
            if kind is Kind.EXIT:
                self._take(None)
                return kind, words.ending(payload)
            if kind is not Kind.ACK:
                return kind, payload
            self._take(payload)
        self._take(None)
        return None

    def _take(self, payload: bytes | None) -> None:
        """The command took so much of its input; or nothing takes any more, and none is held back."""
        if payload is None:
            self._taken = self._sent
        elif len(payload) == OFFSET.size:
            self._taken = min(OFFSET.unpack(payload)[0], self._sent)
        self._took.set()
        self._took = trio.Event()

    async def acknowledge(self, count: int) -> None:
        """So many payload bytes have reached the client: the shim need not keep them for it.

        Says nothing of a shim that is gone: what it sent before can still be received.
        """
        self.position += count
        with suppress(EngineUnavailable):
            await self._send(Kind.ACK, OFFSET.pack(self.position))

    async def stdin(self, data: bytes) -> None:
        """Waits while the command does not take it, which only `receive` hears of: else acknowledgements,
        which go the same way, would wait behind it, and the command for them."""
        for start in range(0, len(data), STDIN_FRAME_BYTES):
            piece = data[start : start + STDIN_FRAME_BYTES]
            while self._sent + len(piece) - self._taken > STDIN_WINDOW_BYTES:
                await self._took.wait()
            self._sent += len(piece)
            await self._send(Kind.STDIN, piece)

    async def end_stdin(self) -> None:
        await self._send(Kind.STDIN_EOF)

    async def resize(self, cols: int, rows: int) -> None:
        await self._send(Kind.RESIZE, json.dumps({"cols": cols, "rows": rows}).encode())

    async def signal(self, number: int) -> None:
        await self._send(Kind.SIGNAL, json.dumps({"signal": number}).encode())

    async def _send(self, kind: Kind, payload: bytes = b"") -> None:
        async with self._sending:
            await self._channel.send(kind, payload)


class Executions:
    """`attach` proves a box alive, `start` brings one to run, `look` settles what is seen: the supervisor's own."""

    def __init__(
        self,
        kernel: KernelProtocol,
        home: HomeLayout,
        ledger: Ledger,
        key: bytes,
        attach: Move,
        start: Move,
        look: Look,
    ) -> None:
        self._kernel = kernel
        self._home = home
        self._ledger = ledger
        self._key = key
        self._attach = attach
        self._start = start
        self._look = look

    def run_key(self, box_id: str, run_id: str) -> bytes:
        """What the shim of this run is given in its spec."""
        return proof.run_key(self._key, box_id, run_id)

    async def exec(self, box: Box, spec: ExecSpec, idempotency_key: str | None) -> dict[str, Any]:
        """Start a command, and first the box where it does not run. Raises what a refusal says."""
        if box.status in STARTABLE:
            _check_resumes(box)
            box = await self._start(box.box_id)
        runtime = self._ledger.runtime(box.box_id)
        self._ledger.counters["commands_executed"] += 1
        runtime.commands += 1
        try:
            async with self.channel(box) as channel:
                hit("exec.before_request")
                reply = await channel.request(
                    op="exec",
                    execution_id=_execution_id(box, idempotency_key),
                    command=spec.command,
                    args=list(spec.args),
                    env=spec.env,
                    timeout_seconds=spec.timeout_seconds,
                    working_dir=spec.working_dir,
                    user=spec.user,
                    tty=spec.tty,
                    cols=spec.cols,
                    rows=spec.rows,
                )
        except BoxlitedError:
            self._ledger.counters["exec_errors"] += 1
            runtime.exec_errors += 1
            raise
        hit("exec.after_reply")
        return words.execution(reply)

    async def ask(self, box: Box, **request: Any) -> dict[str, Any]:
        """One question about executions that there are."""
        async with self._open(box) as channel:
            return await channel.request(**request)

    async def is_busy(self, box: Box) -> bool:
        """Whether a command runs in a box; then it is in use now. One that does not answer may run some."""
        try:
            executions = words.executions(await self.ask(box, op="list"))
        except (Stopped, Unsupported):  # it ended, or has no channel
            return False
        except BoxlitedError as error:
            log.warning(
                "it is not known whether a box is idle: it is left alone", box_id=box.box_id, error=error.message
            )
            return True
        busy = any(execution["status"] == "running" for execution in executions)
        if busy:
            await self._touch(self._ledger.row(box.box_id))
        return busy

    @asynccontextmanager
    async def attachment(self, box: Box, execution_id: str, since: int | None) -> AsyncIterator[Attachment]:
        """Attached to an execution while the block lasts; it goes on afterwards. Raises AlreadyExists for a second."""
        async with self.channel(box) as channel:
            reply = await channel.request(op="attach", execution_id=execution_id, since=since)
            yield Attachment(channel, *words.attached(reply))

    @asynccontextmanager
    async def channel(self, box: Box) -> AsyncIterator[Channel]:
        """As `_open`, for what counts as a use of the box."""
        async with self._open(box) as channel:
            await self._touch(self._ledger.row(box.box_id))
            yield channel

    @asynccontextmanager
    async def _open(self, box: Box) -> AsyncIterator[Channel]:
        """A proven channel to the live shim of a box. Raises Stopped, InvalidState, and what `open_channel` does."""
        runtime = self._ledger.runtime(box.box_id)
        box = self._ledger.row(box.box_id)
        held = box.status is BoxStatus.RUNNING and runtime.handle is not None and runtime.died_at is None
        if not held and not runtime.unproven:  # what is held is alive; what failed has its chance to prove itself now
            box = await self._attach(box.box_id)
        if runtime.handle is None:
            raise Stopped(f"box {box.name} has just ended")
        if box.run_id is None:
            raise InvalidState(f"box {box.name} runs, and which run it is was lost with its row: restart it first")
        pid, key = runtime.handle.pid, self.run_key(box.box_id, box.run_id)
        try:
            async with open_channel(self._home.box(box.box_id), pid, key) as channel:
                if runtime.unproven:
                    log.info("shim has proven itself again", box_id=box.box_id, pid=pid)
                    runtime.unproven = False
                    await self._look(box.box_id)
                yield channel
        except ShimUnproven as error:
            if runtime.handle is not None and runtime.handle.pid == pid and not runtime.unproven:
                log.error("shim is not proven: it is left alone", box_id=box.box_id, pid=pid, error=error.message)
                runtime.unproven = True
                await self._look(box.box_id)
            raise InvalidState(f"box {box.name}: {error.message}") from error
        except EngineUnavailable as error:
            if await self._has_ended(box):
                raise Stopped(f"box {box.name} has just ended: start it, and try again") from error
            raise

    async def _has_ended(self, box: Box) -> bool:
        """Whether the channel broke because its box came to its end; a death is seen a moment after that."""
        runtime = self._ledger.runtime(box.box_id)
        if runtime.handle is None:
            return True
        dead = dead_event(runtime)
        with trio.move_on_after(ENDING_SECONDS):
            await dead.wait()
        return dead.is_set()

    async def _touch(self, box: Box) -> None:
        """A box that is used is not idle."""
        limit, now = box.spec.auto_stop, self._kernel.boottime()
        if limit and now - (box.used_boottime or 0.0) > limit / TOUCHED_SHARE:
            await self._ledger.write(box, {"used_boottime": now}, durable=False)


def _check_resumes(box: Box) -> None:
    """`auto_resume: false`: what its idle time has stopped is started by a user alone. Raises Stopped."""
    if box.spec.auto_resume is False and box.stop_cause is StopCause.AUTO_STOP:
        raise Stopped(f"box {box.name} was stopped after its idle time, and its auto_resume is false: start it first")


def _execution_id(box: Box, idempotency_key: str | None) -> str:
    """The same key gives the same execution of the same run: a repeat starts nothing."""
    if idempotency_key is None:
        return f"exec-{secrets.token_hex(12)}"
    digest = hashlib.sha256(f"{box.run_id}\0{idempotency_key}".encode()).hexdigest()
    return f"exec-{digest[:24]}"
