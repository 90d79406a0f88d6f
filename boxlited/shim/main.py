"""The shim: one per box, forked warm from the spawner; outlives the daemon and records the end.

Reads its spec from descriptor 0, says one line on 3, and from then on owns the workload: its
output, its signals, its end. Depends on no other process of ours. Standard library only.
"""

import _signal  # see workload.py
import json
import os
import select
import signal
from collections.abc import Callable

from boxlited.failpoints import hit
from boxlited.shim.console import Console
from boxlited.shim.control import ControlServer
from boxlited.shim.engines import engine_of
from boxlited.shim.engines.base import EngineError, workload_argv
from boxlited.shim.frugal import parse_json
from boxlited.shim.listening import listen
from boxlited.shim.loop import Loop
from boxlited.shim.requests import Requests
from boxlited.shim.workload import COMPOSED, IGNORED, Workload, complain, compose, says_not_executed
from boxlited.supervisor.exitfile import ExitInfo, stash, write_exit_file

MAX_SPEC_BYTES = 4 << 20
MAX_PREPARED_BYTES = 64 * 1024
READY_FD = 3
DELIVER_BASE = 33  # real-time signal 33 + n: deliver signal n to the workload
DELIVERED = range(DELIVER_BASE + 1, DELIVER_BASE + 32)
TAIL_BYTES = 4096


def warm_up() -> None:
    """Touch what a shim will need, so that its pages are shared by all."""
    json.loads(json.dumps({"a": [1, None, "b"]}))
    signal.Signals(9)


def prepare(spec_fd: int) -> dict | None:  # type: ignore[type-arg]
    """For the spawner, before the fork: the spec read and the command composed, of which every shim would have
    pages of its own. Looks at no file; None for what takes long or is strange, which the shim then meets itself.
    """
    try:
        size = os.lseek(spec_fd, 0, os.SEEK_END)
        if size > MAX_PREPARED_BYTES:
            return None
        spec = _parse_spec(os.pread(spec_fd, size, 0))
        if spec["user"] is None:  # a name would have to be looked up
            spec[COMPOSED] = compose(engine_of(spec), spec)
        return spec
    except Exception:  # a spec that is none: for the shim to say
        return None


def run(prepared: dict | None, spawner: int) -> int:  # type: ignore[type-arg]
    """The whole life of a shim; returns its exit code. Never raises. `spawner` is the pid of who forked it."""
    signals = _take_signals()
    try:
        spec = _read_spec() if prepared is None else prepared
        run_id = spec["run_id"]
        exit_path = spec["paths"]["exit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        _say(_not_ready("internal", f"the spec is not usable: {error!r}"))
        return 1

    def record(info: ExitInfo) -> None:
        _record(exit_path, info._replace(run_id=run_id), spawner)

    try:
        stash(exit_path, spec["paths"]["exit_previous"])
        hit("shim.after_stash")
        return _live(spec, signals, record)
    except EngineError as error:
        record(ExitInfo("error", 1, message=str(error), error_kind=error.kind))
        _say(_not_ready(error.kind, str(error)))
        return 1
    except Exception as error:  # a bug of ours must be told as such, not as the workload's end
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}:0" if trace is not None else None
        info = ExitInfo("panic", 101, message=repr(error), location=where)
    record(info)
    return info.exit_code & 0xFF


def _live(spec: dict, signals: int, record: Callable[[ExitInfo], None]) -> int:  # type: ignore[type-arg]
    log = spec["log"]
    console = Console(spec["paths"]["console_log"], log["max_bytes"], log["keep"])
    hit("shim.before_workload")
    engine = engine_of(spec)
    engine.confine(spec)
    workload = Workload.start(engine, spec)
    hit("shim.after_workload")
    if not workload.exec_seen:
        _check_failed_start(spec, workload, console)
    loop = Loop()
    if workload.pidfd >= 0:
        _listen(spec, workload, loop)
    _say(b'{"ready": true, "workload_pid": %d, "not_applied": []}\n' % workload.pid)
    hit("shim.after_ready")
    if workload.pidfd >= 0:
        _serve(spec, workload, console, signals, loop)
    info = _ending(*workload.status())
    hit("shim.before_exit_file")
    record(info)  # while bubblewrap still clears up; the daemon reads it only once we have ended
    hit("shim.after_exit_file")
    workload.finish()
    _drain(workload.pipe, console)
    return info.exit_code & 0xFF


class Tail:
    """Stands between pipe and console while a start may still fail, and remembers what went by."""

    def __init__(self) -> None:
        self.data = b""

    def pump(self, pipe: int, console: Console) -> None:
        try:
            while chunk := os.read(pipe, 65536):
                self.data = (self.data + chunk)[-TAIL_BYTES:]
                console.write(chunk)
        except OSError:
            return


def _check_failed_start(spec: dict, workload: Workload, console: Console) -> None:  # type: ignore[type-arg]
    """It ended before its program was seen: a very short life, or bubblewrap's last words say why."""
    if workload.ran:
        workload.status()  # bubblewrap may have to tell the end: what `finish` kills first cannot
    workload.finish()
    seen = Tail()
    seen.pump(workload.pipe, console)
    if not workload.ran or says_not_executed(seen.data):
        raise complain(seen.data, workload_argv(spec)[0])


def _serve(spec: dict, workload: Workload, console: Console, signals: int, loop: Loop) -> None:  # type: ignore[type-arg]
    """Until the workload ends: move its output, deliver its signals, answer the daemon."""

    def on_signals(_events: int) -> None:
        for number in os.read(signals, 512):
            _deliver(workload, number, spec["stop_signal"])

    def on_output(_events: int) -> None:
        if not console.pump(workload.pipe):
            loop.forget(workload.pipe)

    loop.watch(workload.pidfd, select.POLLIN, lambda _events: loop.stop())
    loop.watch(workload.outer_fd, select.POLLIN, lambda _events: loop.stop())
    loop.watch(workload.pipe, select.POLLIN, on_output)
    loop.watch(signals, select.POLLIN, on_signals)
    loop.run()


def _listen(spec: dict, workload: Workload, loop: Loop) -> None:  # type: ignore[type-arg]
    """Open the control channel. A box whose channel cannot be opened runs all the same: it has no exec."""
    try:
        listener = listen(spec["paths"]["control_socket"])
    except OSError as error:
        _complain(f"the control channel could not be opened: {error.strerror}")
        return
    server: list[ControlServer] = []

    def on_client(_events: int) -> None:
        if not server:  # made for the first one: most boxes never see any
            handle = Requests(spec, workload, loop).handle
            server.append(ControlServer(listener, bytes.fromhex(spec["key"]), loop, handle))
        server[0].accept()

    loop.watch(listener, select.POLLIN, on_client)


def _deliver(workload: Workload, number: int, stop_signal: int) -> None:
    if number == signal.SIGTERM:
        workload.signal(stop_signal)
    elif number in DELIVERED:
        workload.signal(number - DELIVER_BASE)


def _drain(pipe: int, console: Console) -> None:
    """What the workload wrote before its end; nobody is left who could write more."""
    while select.select([pipe], [], [], 0)[0]:
        if not console.pump(pipe):
            return


def _ending(raw: int, certain: bool) -> ExitInfo:
    if os.WIFSIGNALED(raw):
        number = os.WTERMSIG(raw)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"SIG{number}"
        return ExitInfo("signal", 128 + number, signal=name, ambiguous=not certain)
    return ExitInfo("exited", os.WEXITSTATUS(raw))


def _record(path: str, info: ExitInfo, spawner: int) -> None:
    """While the spawner lives there is a daemon, whose commit of the box's end comes next and is synced: only
    without one must the file outlast a power cut by itself."""
    try:
        write_exit_file(path, info, sync_name=os.getppid() != spawner)
    except OSError as error:
        _complain(f"the exit could not be recorded: {error.strerror}; it was {info}")


def _complain(text: str) -> None:
    try:
        os.write(2, f"boxlited-shim: {text}\n".encode())
    except OSError:
        pass


def _take_signals() -> int:
    """Every signal that concerns us becomes a byte in a pipe; those of a terminal are ignored."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, *DELIVERED):
        _signal.signal(number, _noted)
    for number in IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    return read


def _noted(_number: int, _frame: object) -> None:
    return None


def _read_spec() -> dict:  # type: ignore[type-arg]
    """The sealed memory file on descriptor 0; its size is known before it is read."""
    size = os.lseek(0, 0, os.SEEK_END)
    if size > MAX_SPEC_BYTES:
        raise ValueError("the spec is too long")
    return _parse_spec(os.pread(0, size, 0))


def _parse_spec(data: bytes) -> dict:  # type: ignore[type-arg]
    spec = parse_json(data.decode())
    if not isinstance(spec, dict):
        raise TypeError("the spec is not an object")
    return spec


def _not_ready(kind: str, message: str) -> bytes:
    return json.dumps({"ready": False, "error_kind": kind, "message": message}).encode() + b"\n"


def _say(line: bytes) -> None:
    """One line to whoever started us; nobody may be there any more."""
    try:
        os.write(READY_FD, line)
        os.close(READY_FD)
    except OSError:
        pass
