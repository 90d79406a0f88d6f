"""The typed, synchronous client: one method for each route of the daemon.

A `ref` is a box's id or its name. Every method raises a class of `boxlited.errors` (the daemon's
answer) or of `boxlited.client.errors` (no answer). Times are seconds. Not async (`AsyncClient` is);
one client may be used by several threads, and is closed by one of them once the others are done.

`create` and `exec` carry an idempotency key, a fresh one when none is given: they are repeated
for up to `retry_seconds` when the daemon goes away, and take effect once. No other call is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from boxlited.client import calls, flows
from boxlited.client.calls import Call, ExecRequest
from boxlited.client.event_stream import EventStream
from boxlited.client.flows import Flow, Pause
from boxlited.client.paths import default_socket
from boxlited.client.transport import ByteStream, Transport
from boxlited.client.values import (
    Boxes,
    BoxInfo,
    Completed,
    CrashInfo,
    ExecutionInfo,
    ExecutionInfos,
    ReconcileEntries,
)
from boxlited.errors import BoxlitedError

if TYPE_CHECKING:
    from boxlited.client.attachment import Attachment, Link

T = TypeVar("T")


class Client:
    """Talks to one daemon. Use it as a context manager, or close it."""

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        base_url: str | None = None,
        token: str | None = None,
        retry_seconds: float = flows.RETRY_SECONDS,
    ) -> None:
        path = Path(socket) if socket is not None else default_socket()
        self._transport = Transport(path, base_url, token)
        self._retry_seconds = retry_seconds

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @property
    def where(self) -> str:
        """The socket or URL that this client talks to."""
        return self._transport.where

    # ---- boxes

    def create(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> BoxInfo:
        """Create a box and do not start it. With the same key, a repeat returns the first box."""
        return self._ask(calls.create(spec, idempotency_key))

    def get(self, ref: str) -> BoxInfo:
        return self._ask(calls.get(ref))

    def list(self, status: str | None = None, *, page_size: int = 1000) -> Boxes:
        """Every box, over as many pages as it takes."""
        return self._run(flows.every_box(status, page_size))

    def start(self, ref: str) -> BoxInfo:
        return self._ask(calls.start(ref))

    def stop(self, ref: str, timeout_seconds: float = 30.0) -> BoxInfo:
        """Stop gently, and by force after `timeout_seconds`."""
        return self._ask(calls.stop(ref, timeout_seconds))

    def restart(self, ref: str, timeout_seconds: float = 30.0) -> BoxInfo:
        return self._ask(calls.restart(ref, timeout_seconds))

    def kill(self, ref: str, signal: int = 9) -> BoxInfo:
        """Send a signal to the box's workload."""
        return self._ask(calls.kill(ref, signal))

    def remove(self, ref: str, *, force: bool = False) -> None:
        """Remove a box; with `force` a running one is killed first."""
        self._ask(calls.remove(ref, force))

    def reset_failed(self, ref: str) -> BoxInfo:
        return self._ask(calls.reset_failed(ref))

    def wait(self, ref: str, timeout_seconds: float | None = None) -> BoxInfo:
        """Wait until the box does not run. Raises Timeout when `timeout_seconds` pass first."""
        return self._run(flows.ended(ref, timeout_seconds, time.monotonic))

    # ---- what a box said and why it died

    def logs(
        self, ref: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> ByteStream:
        """The console log as raw bytes: the box wrote them, they are not safe for a terminal.

        With `follow` it ends when the box stops. `since` is in Unix seconds.
        """
        return self._transport.stream(calls.logs(ref, follow, tail, since))

    def crash(self, ref: str, *, previous: bool = False) -> CrashInfo:
        """The report of the last crash, or of the life before. Raises NotFound when there is none."""
        return self._ask(calls.crash(ref, previous))

    def box_metrics(self, ref: str) -> dict[str, Any]:
        return self._ask(calls.box_metrics(ref))

    # ---- commands in a box

    def exec(
        self,
        ref: str,
        command: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        user: str | None = None,
        tty: bool = False,
        cols: int | None = None,
        rows: int | None = None,
        timeout_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> ExecutionInfo:
        """Start a command in a box, which is started if need be; tells its `execution_id`.

        It is killed after `timeout_seconds`. Raises InvalidArgument when it cannot be executed.
        """
        request = ExecRequest(
            command=command, args=args, env=env, working_dir=working_dir, user=user, tty=tty, cols=cols, rows=rows,
            timeout_seconds=timeout_seconds,
        )  # fmt: skip
        return self._ask(calls.execute(ref, request, idempotency_key))

    def executions(self, ref: str) -> ExecutionInfos:
        """The commands of a box, those that have ended too."""
        return self._ask(calls.executions(ref))

    def execution(self, ref: str, execution_id: str) -> ExecutionInfo:
        return self._ask(calls.execution(ref, execution_id))

    def kill_execution(self, ref: str, execution_id: str) -> None:
        """SIGKILL, and forget it and its output."""
        self._ask(calls.kill_execution(ref, execution_id))

    def signal_execution(self, ref: str, execution_id: str, signal: int) -> None:
        """HUP, INT, QUIT, ABRT, USR1, USR2, TERM or WINCH. Raises InvalidState once it has ended."""
        self._ask(calls.signal_execution(ref, execution_id, signal))

    def resize_execution(self, ref: str, execution_id: str, cols: int, rows: int) -> None:
        """Tell its terminal a new size. Raises InvalidState when it has none."""
        self._ask(calls.resize_execution(ref, execution_id, cols, rows))

    def attach(self, ref: str, execution_id: str, since: int | None = None, *, reconnect: bool = False) -> Attachment:
        """The output of a command and the way to its stdin; one at a time (else InvalidState).

        Begins with what nobody was told yet, or after `since` bytes of output. With `reconnect`
        a lost connection is opened again for up to `retry_seconds`.
        """
        from boxlited.client.attachment import Attachment

        def link(offset: int | None) -> Link:
            return self._transport.upgrade(calls.attach(ref, execution_id, offset))

        def link_again(offset: int | None, given_up: Callable[[], bool]) -> Link:
            call = calls.attach(ref, execution_id, offset)
            flow = flows.reopened(call, self._retry_seconds, time.monotonic, given_up)
            return cast("Link", self._run(flow, self._transport.upgrade))

        return Attachment(link, link_again if reconnect else None, since)

    def run_command(
        self,
        ref: str,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        user: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Completed:
        """Run a command to its end: its exit code and all that it wrote, in memory.

        Its stdin is `input` and then ends. Without `input` it outlasts a restart of the daemon.
        """
        from boxlited.client.attachment import completed

        command, *args = calls.checked_argv(argv)
        started = self.exec(
            ref, command, *args, env=env, working_dir=working_dir, user=user, timeout_seconds=timeout_seconds
        )  # fmt: skip
        with self.attach(ref, started["execution_id"], 0, reconnect=not input) as attachment:
            return completed(attachment, input)

    # ---- files

    def put_files(
        self, ref: str, path: str, content: bytes | IO[bytes] | Iterable[bytes], *, overwrite: bool = True
    ) -> None:
        """Unpack a tar stream at `path` in a running box."""
        from boxlited.client.tars import pieces_of

        self._transport.upload(calls.put_files(ref, path, overwrite), pieces_of(content))

    def get_files(self, ref: str, path: str, *, follow_symlinks: bool = False) -> ByteStream:
        """A file or directory of a running box, as a tar stream."""
        return self._transport.stream(calls.get_files(ref, path, follow_symlinks))

    def copy_in(self, host_path: str | Path, ref: str, box_path: str, *, follow_symlinks: bool = False) -> None:
        """Copy a file or directory into a box. Where it lands is as with `cp -r`: in `box_path`
        when that is a directory, else as `box_path`; "DIR/." stands for what is in DIR."""
        from boxlited.client import copying

        copying.copy_in(self, str(host_path), ref, box_path, follow_symlinks)

    def copy_out(self, ref: str, box_path: str, host_path: str | Path, *, follow_symlinks: bool = False) -> None:
        """Copy a file or directory out of a box; as `copy_in`."""
        from boxlited.client import copying

        copying.copy_out(self, ref, box_path, str(host_path), follow_symlinks)

    # ---- the daemon

    def last_event_seq(self) -> int:
        """The number of the newest event."""
        return self._run(flows.last_event_seq())

    def events(self, since: int | None = None, *, follow: bool = True) -> EventStream:
        """Every transition from now on, and first those after number `since`, when given.

        Without `follow` it ends with the event that is the newest at the time of this call.
        """
        last = None if follow else self.last_event_seq()
        if last is not None and last <= (since or 0):
            return EventStream(None, last)
        call = calls.events(None if since is None and follow else since or 0)
        return EventStream(self._transport.stream(call), last)

    def reconcile(self, *, dry_run: bool = False) -> ReconcileEntries:
        """One pass now. Returns what it saw, decided and did, one entry a box."""
        return self._run(flows.reconciled(dry_run))

    def metrics(self) -> dict[str, Any]:
        return self._ask(calls.metrics())

    def config(self) -> dict[str, Any]:
        return self._ask(calls.config())

    def me(self) -> dict[str, Any]:
        return self._ask(calls.me())

    def health(self) -> dict[str, Any]:
        """Raises when the daemon is not there or not well."""
        return self._run(flows.healthy())

    def _ask(self, call: Call[T]) -> T:
        return self._run(flows.asked(call, self._retry_seconds, time.monotonic))

    def _run(self, flow: Flow[T], perform: Callable[[Call[Any]], Any] | None = None) -> T:
        """Does the steps of a flow, each call by `perform` (a request, when not given)."""
        perform = perform or self._transport.request
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(flow)
                    continue
                try:
                    answer = perform(step)
                except BoxlitedError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            return cast(T, end.value)
