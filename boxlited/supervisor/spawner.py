"""The single-threaded process that forks shims, each behind the pre-exec hook of hook.py.

Run by the daemon as `python -m boxlited.supervisor.spawner SOCKET_FD LOCK_FD`. Owns fork,
reaping, and the end of what a dead shim left behind. Must stay single-threaded, never block on
a child, and die only with its socket: it exits when the daemon's end is closed, and shims live
on. Standard library only.

A child keeps its copies of the socket and of the lock until `shim.pid` is written, so the
end of the socket and the release of the lock both prove that no fork is in flight.
"""

import _signal  # see hook.py
import array
import errno
import fcntl
import gc
import json
import os
import select
import socket
import sys

from boxlited.errors import StorageError
from boxlited.failpoints import hit
from boxlited.shim import main as shim_main
from boxlited.supervisor.clone import become_subreaper, clear_hidden_signals, fork_into, own_children
from boxlited.supervisor.hook import FIRST_PRIVATE_FD, IGNORED, Hook, write_file

PROTOCOL_VERSION = 1
MAX_MESSAGE = 65536
MAX_QUEUED = 4096
RETRY_MILLISECONDS = 500
COMM = b"boxlited-spawn"
PYTHONS_OWN = frozenset({_signal.SIGPIPE, _signal.SIGXFSZ})  # ignored by it, and set back for what is executed


class Job:
    """One fork whose hook has not reported yet."""

    __slots__ = ("data", "pid", "pidfd", "seq")

    def __init__(self, seq: int, pid: int, pidfd: int) -> None:
        self.seq = seq
        self.pid = pid
        self.pidfd = pidfd
        self.data = b""


class Spawner:
    """The poll loop: requests, reports of hooks, ends of children."""

    def __init__(self, sock: socket.socket, lock_fd: int) -> None:
        self._sock = sock
        self._lock_fd = lock_fd
        self._poll = select.poll()
        self._jobs: dict[int, Job] = {}  # by the hook's report pipe
        self._children: dict[int, int] = {}  # pid -> seq
        self._failed: set[int] = set()
        self._ended: set[int] = set()  # shims that were reaped and may have left something in their session
        self._owes_a_look = False  # for orphans: there was no descriptor free to see them
        self._queue: list[tuple[bytes, list[int]]] = []
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
        """Until the daemon's end of the socket is closed."""
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._send({"op": "hello", "pid": os.getpid(), "version": PROTOCOL_VERSION})
        while True:
            ready = self._poll.poll(RETRY_MILLISECONDS if self._owes_a_look else None)
            if not ready:
                self._end_orphans()
            for fd, events in ready:
                if fd == self._sock.fileno():
                    if events & select.POLLOUT:
                        self._flush()
                    if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._receive():
                        return
                elif fd == self._wake:
                    self._drain_wake()
                    self._reap()
                elif fd in self._jobs:
                    self._report(fd)

    # -- requests

    def _receive(self) -> bool:
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(4 * 8), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        fds = _received(ancillary)
        try:
            request = json.loads(data)
            if request["op"] == "cancel":
                self._cancel(request["seq"])
            else:
                self._spawn(request, fds)
        except (ValueError, KeyError, TypeError, AttributeError, StorageError):
            self._send({"op": "failed", "seq": _seq_of(data), "stage": "request", "errno": errno.EINVAL})
        except OSError as error:  # no descriptor is free: the next request may find one
            self._send({"op": "failed", "seq": _seq_of(data), "stage": "spawner", "errno": error.errno})
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, request: dict, fds: list[int]) -> None:  # type: ignore[type-arg]
        if request["op"] != "spawn" or len(fds) != 3:
            raise ValueError("not a spawn request")
        seq = request["seq"]
        hook = Hook(request, fds)  # everything that may allocate or fail happens before the fork
        try:
            report_read, report_write = os.pipe2(os.O_CLOEXEC)
            try:
                hit("spawner.before_fork")
                pid, joined = fork_into(hook.birth_cgroup)
            except OSError as error:
                os.close(report_read)
                os.close(report_write)
                self._send({"op": "failed", "seq": seq, "stage": "fork", "errno": error.errno})
                return
        finally:
            hook.close()
        if pid == 0:
            hook.run(report_write, born_inside=joined)
        os.close(report_write)
        hit("spawner.after_fork")
        os.set_blocking(report_read, False)
        self._watch(seq, pid, report_read)

    def _cancel(self, seq: int) -> None:
        """Nobody waits for it any more. Not reaped yet, so its pid is its own; if it hangs in the kernel, it ends
        before it does anything else."""
        for pid, known in self._children.items():
            if known == seq:
                os.kill(pid, _signal.SIGKILL)

    def _watch(self, seq: int, pid: int, report: int) -> None:
        """A child that cannot be held by a pidfd is ended: it is not reaped yet, so the pid is its own."""
        self._children[pid] = seq
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, _signal.SIGKILL)
            self._failed.add(pid)
            os.close(report)
            raise
        self._jobs[report] = Job(seq, pid, pidfd)
        self._poll.register(report, select.POLLIN)

    # -- reports

    def _report(self, fd: int) -> None:
        """The hook's pipe up to its end: `ok START_TIME`, then or instead `STAGE ERRNO`, or nothing."""
        job = self._jobs[fd]
        try:
            while chunk := os.read(fd, 512):
                job.data += chunk
        except BlockingIOError:
            return
        self._poll.unregister(fd)
        os.close(fd)
        del self._jobs[fd]
        words = job.data.splitlines()[-1].split() if job.data else []
        if len(words) == 2 and words[0] == b"ok":
            message = {"op": "spawned", "seq": job.seq, "pid": job.pid, "start_time": int(words[1])}
            self._send(message, [job.pidfd])
            return
        os.close(job.pidfd)
        self._failed.add(job.pid)
        stage, number = (words[0].decode(), int(words[1])) if len(words) == 2 else ("hook", errno.ESRCH)
        self._send({"op": "failed", "seq": job.seq, "stage": stage, "errno": number})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid, status = 0, 0
            if pid == 0:
                self._end_orphans()
                return
            for fd in [fd for fd, job in self._jobs.items() if job.pid == pid]:
                self._report(fd)  # its report, or its end, comes before the end of the process
            seq = self._children.pop(pid, None)
            if seq is not None:
                self._ended.add(pid)
            if pid in self._failed:
                self._failed.discard(pid)
            elif seq is not None:
                self._send({"op": "exited", "pid": pid, "seq": seq, "status": status})

    def _end_orphans(self) -> None:
        """What a dead shim left comes to us, for we are its subreaper: bubblewrap's init waits for ever when its
        other half is killed before it was told to go on. Not reaped yet, so its pid and its session are its own.
        """
        try:
            children = own_children() if self._ended else []
            self._owes_a_look = False
        except OSError:
            self._owes_a_look = True
            return
        left = set()
        for child in children:
            session = os.getsid(child)
            if child not in self._children and session in self._ended:
                os.kill(child, _signal.SIGKILL)
                left.add(session)
        self._ended = left

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake, 512):
                pass
        except BlockingIOError:
            pass

    # -- answers

    def _send(self, message: dict, fds: list[int] | None = None) -> None:  # type: ignore[type-arg]
        if len(self._queue) < MAX_QUEUED:
            self._queue.append((json.dumps(message).encode(), fds or []))
        self._flush()

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)
                return
            except OSError:  # the daemon is gone; the end of the socket follows
                pass
            for fd in fds:
                os.close(fd)
            del self._queue[0]
        self._poll.modify(self._sock, select.POLLIN)


def _received(ancillary: list) -> list[int]:  # type: ignore[type-arg]
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _seq_of(data: bytes) -> int:
    try:
        return int(json.loads(data)["seq"])
    except (ValueError, KeyError, TypeError):
        return 0


def _out_of_the_way(fd: int) -> int:
    """Above the numbers that a child gives to its shim: its copy must live until shim.pid is written."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)
    os.close(fd)
    return moved


def _default_signals() -> None:
    """Whoever started the daemon may ignore any of them; an exec keeps that, and no workload should inherit it."""
    for number in _signal.valid_signals():
        if _signal.getsignal(number) == _signal.SIG_IGN and number not in PYTHONS_OWN:
            _signal.signal(number, _signal.SIG_DFL)


def main() -> int:
    """Entry point. Signals of a terminal do not concern us: only the end of the socket does."""
    sock = socket.socket(fileno=_out_of_the_way(int(sys.argv[1])))
    sock.setblocking(False)
    lock_fd = _out_of_the_way(int(sys.argv[2]))
    _default_signals()
    clear_hidden_signals()
    become_subreaper()
    for number in IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    write_file(b"/proc/self/comm", COMM)
    shim_main.warm_up()
    gc.collect()
    gc.disable()
    gc.freeze()
    Spawner(sock, lock_fd).serve()
    return 0


if __name__ == "__main__":
    os._exit(main())
