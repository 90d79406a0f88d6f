"""Asks the spawner: sealed spec, staged errors, pidfd and exit reports over a socketpair.

Owns the spawner's life: starts it, restarts it when it dies. Forks nothing itself beyond
executing the spawner. Invariant: when the socket reaches its end, no fork is in flight any
more, because each child holds a copy of the spawner's end until its shim.pid is written.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from errno import EMFILE, ENFILE
from typing import Any

import structlog
import trio

from boxlited.errors import BoxlitedError, EngineUnavailable, ResourceExhausted, StorageError
from boxlited.supervisor.kernel import ExitStatus
from boxlited.supervisor.program import environment, unchangeable

MAX_MESSAGE_BYTES = 65536
SPAWN_DEADLINE_SECONDS = 20.0
CANCEL_SECONDS = 1.0
RESTART_DELAY_SECONDS = 0.1
RELAUNCH_DELAY_SECONDS = 1.0

log = structlog.get_logger()


class SpawnFailed(BoxlitedError):
    """The pre-exec hook failed: `stage` and `errno` say where and why. No shim is left."""

    code = "engine_unavailable"
    status = 503

    def __init__(self, stage: str, errno: int) -> None:
        super().__init__(f"the shim could not be spawned: {stage} failed: {os.strerror(errno)} (errno {errno})")
        self.stage = stage
        self.errno = errno


class SpawnerGone(EngineUnavailable):
    """The spawner died while it was asked; whether a shim was forked is for `observe` to find."""


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """`argv` None forks our own warm shim; otherwise the program is executed behind the same hook."""

    pid_file: str
    spec: bytes
    stderr_path: str
    cgroups: Sequence[str] = ()
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    argv: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A shim. The caller owns both descriptors. `ended`: how, when that was told together with its birth."""

    pid: int
    start_time: int
    pidfd: int
    ready_fd: int
    seq: int
    ended: ExitStatus | None = None


def sealed_memfd(content: bytes) -> int:
    """An unchangeable in-memory file at position 0: the spec never shows in argv or environ."""
    fd = os.memfd_create("boxlited-spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Pending:
    __slots__ = ("done", "ended", "error", "pid", "pidfd", "start_time")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: BoxlitedError | None = None
        self.ended: ExitStatus | None = None
        self.pid = 0
        self.start_time = 0
        self.pidfd = -1

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Spawner:
    """The daemon's end. `on_exited(seq, pid, status)` is called for every reaped shim that `spawn` has given out."""

    def __init__(self, lock_fd: int, on_exited: Callable[[int, int, ExitStatus], None]) -> None:
        self._lock_fd = lock_fd
        self._on_exited = on_exited
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: trio.socket.SocketType | None = None
        self._pending: dict[int, _Pending] = {}
        self._seq = 0
        self._send_lock = trio.Lock()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def launch(self) -> None:
        """Execute the spawner; called once before any thread exists, again when it died. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as unused:
            unused.enter_context(ours)
            argv = [sys.executable, "-P", "-m", "boxlited.supervisor.spawner"]
            with unchangeable(sys.executable) as program:
                self._process = subprocess.Popen(
                    [*argv, str(theirs.fileno()), str(self._lock_fd)],
                    executable=program,
                    env=environment(),
                    pass_fds=(theirs.fileno(), self._lock_fd),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            unused.pop_all()
        ours.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(ours)

    async def _launch_again(self) -> None:
        """A host without a free descriptor or process now may have one in a moment."""
        while self._socket is None:
            try:
                self.launch()
            except OSError as error:
                log.error("the spawner cannot be started, it is tried again", error=str(error))
                await trio.sleep(RELAUNCH_DELAY_SECONDS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the spawner then sees the end of its socket and exits."""
        started = False
        try:
            while True:
                await self._launch_again()
                if not started:
                    started = True
                    task_status.started()
                await self._serve()
                self._lost()
                await trio.sleep(RESTART_DELAY_SECONDS)
        finally:
            self._close()

    async def spawn(self, request: SpawnRequest) -> Spawned:
        """Have a shim forked. Returns once `shim.pid` is written.

        Raises SpawnFailed, SpawnerGone, or ResourceExhausted. When cancelled, the shim may
        have been forked all the same: observe before acting.
        """
        with ExitStack() as fds:
            try:
                spec_fd = _closing(fds, sealed_memfd(request.spec))
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                stderr_fd = _closing(fds, os.open(request.stderr_path, flags, 0o600))
                ready_read, ready_write = os.pipe()
            except OSError as error:
                raise _not_opened(request.stderr_path, error) from error
            _closing(fds, ready_write)
            keep = fds.enter_context(ExitStack())
            _closing(keep, ready_read)
            pending, seq = await self._ask(request, [spec_fd, stderr_fd, ready_write])
            keep.pop_all()
        return Spawned(pending.pid, pending.start_time, pending.pidfd, ready_read, seq, pending.ended)

    async def _ask(self, request: SpawnRequest, fds: list[int]) -> tuple[_Pending, int]:
        self._seq += 1
        seq, pending = self._seq, _Pending()
        message = json.dumps(
            {
                "op": "spawn",
                "seq": seq,
                "pid_file": request.pid_file,
                "cgroups": list(request.cgroups),
                "rlimits": {name: list(pair) for name, pair in request.rlimits.items()},
                "argv": None if request.argv is None else list(request.argv),
                "env": dict(request.env),
            }
        ).encode()
        if len(message) > MAX_MESSAGE_BYTES:
            raise ResourceExhausted("the command and environment of the shim are too long: shorten them")
        self._pending[seq] = pending
        try:
            with trio.move_on_after(SPAWN_DEADLINE_SECONDS):
                await self._send(message, fds)
                await pending.done.wait()
            if not pending.done.is_set():
                await self._give_up(seq)
                raise EngineUnavailable("the spawner did not answer in time; look at the daemon's log")
        except BaseException:
            pending.close()  # the answer came together with what ended the wait for it
            raise
        finally:
            self._pending.pop(seq, None)
        if pending.error is not None:
            raise pending.error
        return pending, seq

    async def _give_up(self, seq: int) -> None:
        """A child that hangs before its shim.pid is seen by nobody: it must not go on behind a next start."""
        log.error("the spawner did not answer in time", seq=seq)
        with trio.move_on_after(CANCEL_SECONDS), suppress(SpawnerGone):
            await self._send(json.dumps({"op": "cancel", "seq": seq}).encode(), [])

    async def _send(self, message: bytes, fds: list[int]) -> None:
        asked = self._socket
        if asked is None:
            raise SpawnerGone("the spawner is being restarted: retry in a moment")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        async with self._send_lock:
            if self._socket is not asked:  # told so while it waited; the next spawner must not fork for it all the same
                raise SpawnerGone("the spawner died: retry in a moment")
            try:
                await asked.sendmsg([message], ancillary)
            except (OSError, trio.ClosedResourceError) as error:
                raise SpawnerGone("the spawner died: retry in a moment") from error

    async def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data, ancillary, _flags, _address = await self._socket.recvmsg(
                    MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC
                )
            except OSError:
                return
            if not data:
                return
            self._handle(json.loads(data), _received_fds(ancillary))

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "spawned":
                self._finish(message, fds)
            case "failed":
                pending = self._pending.get(message["seq"])
                if pending is not None:
                    pending.error = SpawnFailed(message["stage"], message["errno"])
                    pending.done.set()
            case "exited":
                status = ExitStatus.from_wait_status(message["status"])
                pending = self._pending.get(message["seq"])
                if pending is not None:  # the asker has not run since its birth was told, and nobody knows it yet
                    pending.ended = status
                else:
                    self._on_exited(message["seq"], message["pid"], status)

    def _finish(self, message: dict[str, Any], fds: list[int]) -> None:
        pending = self._pending.get(message["seq"])
        if pending is None:  # the asker gave up; reconcile will find the shim by its pid file
            for fd in fds:
                os.close(fd)
            return
        if fds:
            pending.pid, pending.start_time = message["pid"], message["start_time"]
            pending.pidfd = fds[0]
        else:  # the kernel drops what there is no number for; the shim is found by its pid file
            pending.error = ResourceExhausted(
                "the daemon has no descriptor free for another box: raise LimitNOFILE or `ulimit -n`, or stop boxes"
            )
        pending.done.set()

    def _lost(self) -> None:
        log.warning("spawner died, restarting it", pid=self.pid, in_flight=len(self._pending))
        self.restarts += 1
        for pending in self._pending.values():
            if not pending.done.is_set():  # one that is answered has its shim, only it did not run since
                pending.error = SpawnerGone("the spawner died while the shim was being spawned: retry")
                pending.done.set()
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2.0)
            self._process = None


def _closing(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def _received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _not_opened(stderr_path: str, error: OSError) -> BoxlitedError:
    text = f"cannot open the files of a new shim: {error.strerror} (errno {error.errno})"
    if error.filename is None or error.errno in (EMFILE, ENFILE):
        return ResourceExhausted(f"{text}; nothing was started")
    return StorageError(f"{text}: look at {stderr_path} and move away what is there; nothing was started")


async def read_ready(ready_fd: int, deadline_seconds: float) -> dict[str, Any] | None:
    """The shim's one line about its start; None when it ended without a word.

    Takes over `ready_fd`. Raises trio.TooSlowError past the deadline (seconds).
    """
    data = b""
    async with trio.lowlevel.FdStream(ready_fd) as stream:
        with trio.fail_after(deadline_seconds):
            while not data.endswith(b"\n") and len(data) < MAX_MESSAGE_BYTES:
                chunk = await stream.receive_some(4096)
                if not chunk:
                    break
                data += chunk
    if not data.strip():
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    return message if isinstance(message, dict) else {"message": f"the shim's ready line is no JSON: {data[:100]!r}"}
