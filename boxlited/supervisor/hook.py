"""The pre-exec hook: what a child of the spawner does between fork and its shim.

Everything is computed before the fork; the child makes bare system calls only. Never run in
a process with threads. Invariant: the child's copies of the lock and of the spawner's socket
are closed only after `shim.pid` is written. Standard library only.
"""

import _signal  # the plain functions: those of `signal` make an enum of every number, and pages private
import errno
import fcntl
import os
import resource

from boxlited.failpoints import hit
from boxlited.shim import main as shim_main
from boxlited.supervisor.pidfile import PidFileWriter, PidRecord

READY_FD = 3
FIRST_PRIVATE_FD = 64
IGNORED = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGPIPE)  # by the spawner
SHIM_COMM = b"boxlited-shim"
RLIMITS = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_")
}


class Hook:
    """What the child does between fork and its shim: everything computed beforehand, bare system calls."""

    def __init__(self, request: dict, fds: list[int]) -> None:  # type: ignore[type-arg]
        self._fds = fds
        self._spawner = os.getpid()
        self._writer = PidFileWriter(request["pid_file"])
        self._cgroups = [os.fsencode(path) + b"/cgroup.procs" for path in request["cgroups"]]
        self.birth_cgroup = _open_directory(request["cgroups"][0]) if request["cgroups"] else None
        self._rlimits = [(RLIMITS[name], (pair[0], pair[1])) for name, pair in request["rlimits"].items()]
        argv = request["argv"]
        self._prepared = shim_main.prepare(fds[0]) if argv is None else None
        self._argv = None if argv is None else [os.fsencode(word) for word in argv]
        self._env = {os.fsencode(key): os.fsencode(value) for key, value in request["env"].items()}

    def close(self) -> None:
        """What was needed for the fork itself."""
        if self.birth_cgroup is not None:
            os.close(self.birth_cgroup)

    def run(self, report: int, *, born_inside: bool) -> None:
        """Never returns: becomes the shim, or reports (stage, errno) and exits with 127."""
        stage = "setsid"
        try:
            hit("hook.begin")
            os.setsid()
            stage = "signals"
            _reset_signals()
            stage = "stdio"
            report = self._arrange_fds(report)
            stage = "cgroup"
            for path in self._cgroups[1:] if born_inside else self._cgroups:
                write_file(path, b"0")
            stage = "rlimits"
            for which, limits in self._rlimits:
                resource.setrlimit(which, limits)
            stage = "pid_file"
            hit("hook.before_pid_file")
            record = PidRecord.current()
            self._writer.write(record)
            hit("hook.after_pid_file")
            stage = "close_fds"
            _close_all_but(report)  # the lock's and the socket's copies go only now
            stage = "exec"
            self._become_shim(report, record)
        except OSError as error:
            _write_all(report, b"%s %d\n" % (stage.encode(), error.errno or errno.EIO))
        except ValueError:  # setrlimit above the hard limit
            _write_all(report, b"%s %d\n" % (stage.encode(), errno.EINVAL))
        finally:
            os._exit(127)

    def _arrange_fds(self, report: int) -> int:
        """0 spec, 1 /dev/null, 2 the shim's stderr, 3 the ready pipe, 4 the report pipe."""
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        moved = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)
            for fd in (self._fds[0], null, *self._fds[1:], report)
        ]
        for target, fd in enumerate(moved):
            os.dup2(fd, target, inheritable=target != 4)
        return 4

    def _become_shim(self, report: int, record: PidRecord) -> None:
        """Says ok and ends the report: by closing it, or by an exec that closes it; a failed exec adds its errno."""
        _write_all(report, b"ok %d\n" % (record.start_time or 0))
        if self._argv is not None:
            for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # ignored by Python itself
                _signal.signal(number, _signal.SIG_DFL)
            os.execvpe(self._argv[0], self._argv, self._env)
        os.close(report)
        write_file(b"/proc/self/comm", SHIM_COMM)
        os._exit(shim_main.run(self._prepared, self._spawner))


def _reset_signals() -> None:
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGCHLD, *IGNORED):
        if number != _signal.SIGPIPE:  # the spawner may be dead when the child reports to it
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def _close_all_but(report: int) -> None:
    os.closerange(READY_FD + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1])  # the soft one was lowered above
    assert report == READY_FD + 1


def _open_directory(path: str) -> int | None:
    """The cgroup that the child may be born in; its absence is told later, by the hook's own stage."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def write_file(path: bytes, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    except OSError:
        pass
