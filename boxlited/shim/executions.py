"""Commands that run inside a box beside its workload: started, fed, signalled, timed, and how they ended.

Owned by the shim: an execution goes on when the client, the socket or the daemon dies. It lives in the
box's pid namespace and so dies with the box, whatever happens to the shim. Standard library only.
"""

import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from boxlited.shim.birth import Birth
from boxlited.shim.engines.base import EngineError
from boxlited.shim.enter import fork_guest
from boxlited.shim.guest import Command, become
from boxlited.shim.loop import Loop, Timer
from boxlited.shim.ring import Ring
from boxlited.shim.stdin import Stdin

RING_BYTES = 1 << 20  # of what was not delivered
READ_BYTES = 256 * 1024
PIPE_BYTES = 1 << 20
TERMINAL_BYTES = 128 * 1024  # more than a terminal holds
KEPT_BYTES = 2 * READ_BYTES  # of what was delivered, in whole pieces: more than a local socket holds unread
HOLD_SECONDS = 10.0  # how long output waits for somebody to attach, before the oldest is forgotten
VEOF = b"\x04"
ENDED = "the box has ended"
IN_GROUP = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})

Listener = Callable[[], None]


class Execution:
    """One command. `changed` is called when there is output, or an end, for whoever is attached."""

    def __init__(self, execution_id: str, command: Command, loop: Loop) -> None:
        self.id = execution_id
        self.command = command
        self.ring = Ring(RING_BYTES + KEPT_BYTES, KEPT_BYTES)
        self.started_at = time.time()
        self.pid = 0
        self.exit_code: int | None = None
        self.status = "running"
        self.error: str | None = None
        self.attached = False
        self.is_told = False  # somebody who was attached heard how it ended
        self.changed: Listener | None = None
        self.stdin: Stdin | None = None
        self._loop = loop
        self._began = time.monotonic()
        self._duration: float | None = None
        self._pidfd = -1
        self._box = -1  # pidfd of the workload
        self._outputs: dict[int, int] = {}  # descriptor -> channel
        self._paused: set[int] = set()
        self._left: dict[int, int] = {}  # of an ended command: how much may still be its own
        self._terminal = -1
        self._hold: Timer | None = None
        self._limit: Timer | None = None
        self._killed = False

    # -- start

    def begin(self, pid: int, pidfd: int, done: Callable[[EngineError | None], None]) -> None:
        """Start it in the box of the workload `pid`; `done` hears once it runs, or why not. Raises OSError."""
        self._box = pidfd
        ours: list[int] = []
        theirs: list[int] = []
        try:
            if not self.command.tty:
                self._open_pipes(ours, theirs)
            entrant, channel = fork_guest(pid, pidfd, tuple(theirs), lambda to: become(self.command, theirs, to))
        except OSError:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        Birth(entrant, channel, lambda pid, terminal, error: self._born(pid, ours, terminal, error, done), self._loop)

    def _open_pipes(self, ours: list[int], theirs: list[int]) -> None:
        """stdin, stdout, stderr: each end goes into its list as soon as it is open."""
        for number in range(3):
            read, write = os.pipe2(os.O_CLOEXEC)
            ours.append(write if number == 0 else read)
            theirs.append(read if number == 0 else write)
            os.set_blocking(ours[-1], False)
            if number:
                _enlarge(read)

    def _born(
        self,
        pid: int,
        ours: list[int],
        terminal: int | None,
        error: EngineError | None,
        done: Callable[[EngineError | None], None],
    ) -> None:
        if error is None:
            self._live(pid, ours, terminal)
        else:
            for fd in [*ours, *([] if terminal is None else [terminal])]:
                os.close(fd)
        done(error)

    def _live(self, pid: int, ours: list[int], terminal: int | None) -> None:
        """It runs: watch its output and its end."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._loop.watch(self._pidfd, select.POLLIN, self._on_end)
        if terminal is not None:
            os.set_blocking(terminal, False)
            self._terminal = terminal
            self.stdin = Stdin(self._loop, os.dup(terminal), eof=VEOF)
            self._outputs[terminal] = 1
        else:
            self.stdin = Stdin(self._loop, ours[0])
            self._outputs = {ours[1]: 1, ours[2]: 2}
        for fd in list(self._outputs):
            self._loop.watch(fd, select.POLLIN, partial(self._on_output, fd))
        self._hold = self._loop.after(HOLD_SECONDS, self._stop_holding)
        if self.command.timeout_seconds is not None:
            self._limit = self._loop.after(self.command.timeout_seconds, self._time_out)

    # -- output

    def _on_output(self, fd: int, _events: int) -> None:
        if self.exit_code is None:
            self._pump(fd)
        else:
            self._drain(fd)

    def _pump(self, fd: int) -> None:
        """Move output to the ring: as much as it takes, so that a chatty command waits for its reader."""
        if fd not in self._outputs:
            return
        if self._forgets():
            self.ring.make_room(READ_BYTES)
        room = min(self.ring.room(), READ_BYTES, self._left.get(fd, READ_BYTES))
        if room == 0:
            self._loop.forget(fd)
            self._paused.add(fd)
            return
        try:
            data = os.read(fd, room)
        except BlockingIOError:
            if self.exit_code is not None:
                self._close_output(fd)  # whoever still holds the other end is none of this command
            return
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if data:
            self.ring.append(self._outputs[fd], data)
            self._count(fd, len(data))
        else:
            self._close_output(fd)
        self._tell()

    def _count(self, fd: int, taken: int) -> None:
        """Behind a command's end, no more is its own than its pipe held: another may write to it for ever."""
        if fd in self._left:
            self._left[fd] -= taken
            if self._left[fd] <= 0:
                self._close_output(fd)

    def resume(self) -> None:
        """There is room again, or nobody came for it: take what waits."""
        while self._paused and (self.ring.room() > 0 or self._forgets()):
            fd = self._paused.pop()
            self._loop.watch(fd, select.POLLIN, partial(self._on_output, fd))
            if self.exit_code is not None:
                self._drain(fd)

    def _forgets(self) -> bool:
        """Whether the oldest output may go: nobody is attached, and nobody was for a while."""
        return not self.attached and self._hold is None

    def _close_output(self, fd: int) -> None:
        self._loop.forget(fd)
        self._paused.discard(fd)
        self._left.pop(fd, None)
        del self._outputs[fd]
        os.close(fd)
        if fd == self._terminal:
            self._terminal = -1
        self._settle()

    def _settle(self) -> None:
        """Once all is in the ring, nothing waits any more, and little of what was delivered is kept."""
        if self.is_drained:
            self._cancel_hold()
            self.ring.shrink(KEPT_BYTES)

    @property
    def is_drained(self) -> bool:
        """It has ended and the ring holds the last of its output."""
        return self.exit_code is not None and not self._outputs

    def ended_for(self) -> float:
        """Seconds since its end; 0 while it runs."""
        return 0.0 if self._duration is None else time.monotonic() - self._began - self._duration

    # -- attaching

    def attach(self, changed: Listener) -> None:
        self.attached = True
        self.changed = changed
        self._cancel_hold()

    def detach(self) -> None:
        self.attached = False
        self.changed = None
        self._cancel_hold()
        if not self.is_drained:
            self._hold = self._loop.after(HOLD_SECONDS, self._stop_holding)

    def acknowledge(self, position: int) -> None:
        self.ring.acknowledge(position)
        self._settle()
        self.resume()

    def _stop_holding(self) -> None:
        self._hold = None
        self.resume()

    def _cancel_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
        self._hold = None

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()

    # -- control

    def signal(self, number: int) -> bool:
        """Deliver a signal; one that asks to end goes to its whole group, as from a terminal. False: it has ended."""
        if self.exit_code is not None:
            return False
        try:
            if number in IN_GROUP:
                os.killpg(self.pid, number)  # not reaped yet: its number is nobody else's
            else:
                signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        self._killed = True
        self._kill_group()

    def resize(self, cols: int, rows: int) -> None:
        """Raises EngineError when it has no terminal."""
        if not self.command.tty:
            raise EngineError("invalid_state", f"execution {self.id} has no terminal: it was started without tty")
        if self._terminal >= 0:
            set_size(self._terminal, cols, rows)

    def _kill_group(self) -> None:
        if self.exit_code is None and self.pid > 1:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _time_out(self) -> None:
        if self.exit_code is None:
            self.status = "timed_out"
            self.error = f"it ran longer than {self.command.timeout_seconds:g} s"
            self._kill_group()

    # -- end

    def _on_end(self, _events: int) -> None:
        if self.status == "timed_out" or self._killed:
            self._kill_group()  # what it forked at the last moment; its number is its own until it is reaped
        try:
            found, raw = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            found, raw = self.pid, int(signal.SIGKILL)
        if found == 0:
            return
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._duration = time.monotonic() - self._began
        if os.WIFSIGNALED(raw):
            number = os.WTERMSIG(raw)
            if self.status == "running":
                self.status = "killed"
                self.error = ENDED if self._fell_with_box(number) else f"killed by {_signal_name(number)}"
            self._finish(128 + number)
        else:
            self.status = "completed" if self.status == "running" else self.status
            self._finish(os.WEXITSTATUS(raw))

    def _fell_with_box(self, number: int) -> bool:
        """The kernel kills what is in a box once the workload has ended; both ends may be heard of at once."""
        heard = number == signal.SIGKILL and self._box >= 0
        return heard and bool(select.select([self._box], [], [], 0)[0])

    def _finish(self, exit_code: int) -> None:
        self.exit_code = exit_code
        if self._limit is not None:
            self._limit.cancel()
        if self.stdin is not None:
            self.stdin.close()
        for fd in list(self._outputs):
            self._left[fd] = _capacity(fd)
            if fd not in self._paused:
                self._drain(fd)
        self._settle()
        self._tell()

    def _drain(self, fd: int) -> None:
        """What it wrote before its end is in the pipe already."""
        while fd in self._outputs and fd not in self._paused:
            self._pump(fd)

    # -- looking

    def view(self) -> dict[str, Any]:
        end = time.monotonic() - self._began if self._duration is None else self._duration
        return {
            "execution_id": self.id,
            "command": self.command.shown,
            "status": self.status if self.exit_code is not None else "running",
            "attached": self.attached,
            "tty": self.command.tty,
            "exit_code": self.exit_code,
            "started_at": self.started_at,
            "duration_ms": int(end * 1000) if self.exit_code is not None else None,
            "error_message": self.error,
        }


def set_size(terminal: int, cols: int, rows: int) -> None:
    """Raises ValueError for a size that no terminal has."""
    if not (0 < cols < 1 << 16 and 0 < rows < 1 << 16):
        raise ValueError(f"{cols} x {rows}")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))


def _enlarge(pipe: int) -> None:
    """A larger pipe means fewer wake-ups; an ordinary user has only so many pages for them."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass


def _capacity(fd: int) -> int:
    """The most that can lie in a pipe or a terminal unread."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:
        return TERMINAL_BYTES


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
