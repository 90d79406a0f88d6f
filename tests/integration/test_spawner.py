"""The spawner and its hook, spoken to directly over the socketpair: stages, reaping, what a child keeps."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from boxlited.supervisor.clone import SYS_RT_SIGACTION
from boxlited.supervisor.pidfile import PidFileReader, parse_start_time
from boxlited.supervisor.spawn import sealed_memfd
from tests.integration.daemon_harness import is_alive, kill_pid, reader_at, until

WAIT_SECONDS = 20


class Conversation:
    """One spawner, its lock, and the descriptors it handed out."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = directory / "lock"
        self.lock_fd = os.open(self.lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(WAIT_SECONDS)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "boxlited.supervisor.spawner", str(theirs.fileno()), str(self.lock_fd)],
            pass_fds=(theirs.fileno(), self.lock_fd),
            start_new_session=True,
        )
        theirs.close()
        os.close(self.lock_fd)
        self.fds: list[int] = []
        self.pids: list[int] = []
        assert self.receive()["op"] == "hello"

    def receive(self) -> dict[str, Any]:
        data, ancillary, _, _ = self.ours.recvmsg(65536, socket.CMSG_SPACE(16))
        message: dict[str, Any] = json.loads(data)
        for _level, _kind, raw in ancillary:
            fds = array.array("i")
            fds.frombytes(raw)
            self.fds += fds
        if message["op"] == "spawned":
            self.pids.append(message["pid"])
        return message

    def ask(self, seq: int = 1, spec: bytes = b"{}", **request: Any) -> int:
        """Send a spawn request; returns the read end of the ready pipe."""
        read, write = os.pipe()
        fds = [sealed_memfd(spec), os.open(self.directory / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), write]
        message = {
            "op": "spawn", "seq": seq, "pid_file": str(self.directory / "shim.pid"),
            "cgroups": [], "rlimits": {}, "argv": None, "env": {}, **request,
        }  # fmt: skip
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self.ours.sendmsg([json.dumps(message).encode()], rights)
        for fd in fds:
            os.close(fd)
        self.fds.append(read)
        return read

    def close(self) -> None:
        self.ours.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(WAIT_SECONDS)
        for pid in self.pids:
            if is_alive(pid):
                kill_pid(pid)
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[Conversation]:
    conversation = Conversation(tmp_path)
    yield conversation
    conversation.close()


def sleeper(seconds: int = 1000) -> list[str]:
    return ["/bin/sleep", str(seconds)]


def test_hook_writes_the_live_identity_before_it_is_told(spawner: Conversation) -> None:
    spawner.ask(argv=sleeper())
    told = spawner.receive()
    assert told["op"] == "spawned"
    record = PidFileReader(spawner.directory / "shim.pid").read()
    live = parse_start_time(Path(f"/proc/{told['pid']}/stat").read_bytes())
    assert (record.pid, record.start_time) == (told["pid"], live) == (told["pid"], told["start_time"])
    assert os.getsid(told["pid"]) == told["pid"]


def test_pidfd_is_of_the_shim_and_its_end_is_reported(spawner: Conversation) -> None:
    spawner.ask(seq=7, argv=sleeper())
    told = spawner.receive()
    pidfd = spawner.fds[-1]
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], WAIT_SECONDS)[0]
    ended = spawner.receive()
    assert (ended["op"], ended["seq"], ended["pid"]) == ("exited", 7, told["pid"])
    assert os.WTERMSIG(ended["status"]) == signal.SIGKILL
    assert not Path(f"/proc/{told['pid']}").exists()


@pytest.mark.parametrize(
    ("change", "stage", "number"),
    [
        ({"cgroups": ["/nonexistent/cgroup"]}, "cgroup", errno.ENOENT),
        ({"rlimits": {"nofile": [1 << 40, 1 << 40]}}, "rlimits", None),
        ({"pid_file": "/nonexistent/dir/shim.pid"}, "pid_file", errno.ENOENT),
        ({"argv": ["/no/such/program"]}, "exec", errno.ENOENT),
        ({"argv": ["/etc/passwd"]}, "exec", errno.EACCES),
    ],
)
def test_a_failed_hook_tells_stage_and_errno_and_leaves_no_process(
    spawner: Conversation, change: dict[str, Any], stage: str, number: int | None
) -> None:
    ready = spawner.ask(**{"argv": sleeper(), **change})
    told = spawner.receive()
    assert (told["op"], told["stage"]) == ("failed", stage)
    assert told["errno"] == number or number is None
    assert select.select([ready], [], [], WAIT_SECONDS)[0]
    assert os.read(ready, 1) == b""  # nobody holds the other end any more
    spawner.ask(seq=2, argv=sleeper())
    assert spawner.receive()["op"] == "spawned"  # it goes on serving


@pytest.mark.parametrize("message", [b"not json", b"[]", b"{}", b'{"op":"spawn","seq":3}', b'{"op":"dance","seq":4}'])
def test_a_bad_request_is_refused_and_harms_nothing(spawner: Conversation, message: bytes) -> None:
    spawner.ours.send(message)
    told = spawner.receive()
    assert (told["op"], told["stage"]) == ("failed", "request")
    spawner.ask(argv=sleeper())
    assert spawner.receive()["op"] == "spawned"


def test_a_path_that_is_none_is_refused_and_harms_nothing(spawner: Conversation) -> None:
    spawner.ask(seq=5, argv=sleeper(), pid_file="/tmp/\0/shim.pid")
    told = spawner.receive()
    assert (told["op"], told["seq"], told["stage"]) == ("failed", 5, "request")
    spawner.ask(argv=sleeper())
    assert spawner.receive()["op"] == "spawned"


def test_limits_reach_the_shim_and_descriptors_do_not(spawner: Conversation) -> None:
    spawner.ask(argv=sleeper(), rlimits={"nofile": [123, 123], "core": [0, 0]})
    pid = spawner.receive()["pid"]
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (123, 123)
    given = {"0", "1", "2", "3"}
    until(lambda: set(os.listdir(f"/proc/{pid}/fd")) == given, "it has these, once its libraries are loaded")
    held = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in given}
    assert "memfd:boxlited-spec" in held[0]
    assert held[1] == "/dev/null"


def test_environment_is_what_was_asked_for_and_signals_are_default(spawner: Conversation) -> None:
    spawner.ask(argv=sleeper(), env={"A": "b"})
    pid = spawner.receive()["pid"]
    until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "it executes")
    assert Path(f"/proc/{pid}/environ").read_bytes() == b"A=b\0"
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0


def test_signals_that_the_daemon_was_started_without_are_default_again(tmp_path: Path) -> None:
    numbers = (signal.SIGALRM, signal.SIGTSTP, signal.SIGCHLD, signal.SIGTERM, signal.SIGWINCH, signal.SIGRTMIN + 3)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        conversation = Conversation(tmp_path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    try:
        conversation.ask(argv=["/bin/sh", "-c", "exec sleep 1000"])
        pid = conversation.receive()["pid"]
        until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "it executes")
        status = Path(f"/proc/{pid}/status").read_text()
        assert "\nSigIgn:\t0000000000000000\n" in status
        assert "\nSigBlk:\t0000000000000000\n" in status
    finally:
        conversation.close()


def test_signals_that_the_c_library_hides_do_not_stay_ignored(tmp_path: Path) -> None:
    """Some supervisors start us with signal 32 ignored; only the bare system call can set it back."""
    ignored = ctypes.create_string_buffer(64)
    ignored[0] = 1  # SIG_IGN
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(64)
    number = SYS_RT_SIGACTION[platform.machine()]
    assert libc.syscall(number, 32, ignored, before, 8) == 0
    try:
        conversation = Conversation(tmp_path)
    finally:
        libc.syscall(number, 32, before, None, 8)
    try:
        conversation.ask(argv=sleeper())
        pid = conversation.receive()["pid"]
        until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "it executes")
        assert signals_ignored(pid) == 0
    finally:
        conversation.close()


def signals_ignored(pid: int) -> int:
    status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return int(status["SigIgn"], 16)


def test_spawner_ends_with_its_socket_and_shims_live_on(spawner: Conversation) -> None:
    spawner.ask(argv=sleeper())
    pid = spawner.receive()["pid"]
    spawner.ours.close()
    assert spawner.process.wait(WAIT_SECONDS) == 0
    assert is_alive(pid)
    with spawner.lock.open() as file:  # neither the spawner nor the shim holds it now
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_spawner_killed_leaves_shims_alone(spawner: Conversation) -> None:
    spawner.ask(argv=sleeper())
    pid = spawner.receive()["pid"]
    spawner.process.kill()
    spawner.process.wait(WAIT_SECONDS)
    assert spawner.ours.recv(65536) == b""
    assert is_alive(pid)


def test_signals_of_a_terminal_do_not_end_it(spawner: Conversation) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        spawner.process.send_signal(number)
    spawner.ask(argv=sleeper())
    assert spawner.receive()["op"] == "spawned"


def test_many_at_once_are_each_answered(spawner: Conversation) -> None:
    for seq in range(1, 31):
        spawner.ask(seq=seq, argv=sleeper(), pid_file=str(spawner.directory / f"{seq}.pid"))
    told = [spawner.receive() for _ in range(30)]
    assert {message["seq"] for message in told} == set(range(1, 31))
    assert all(message["op"] == "spawned" for message in told)
    assert len(set(spawner.pids)) == 30


def test_warm_shim_with_an_unusable_spec_says_so(spawner: Conversation) -> None:
    ready = spawner.ask(spec=b"not json")
    assert spawner.receive()["op"] == "spawned"
    assert select.select([ready], [], [], WAIT_SECONDS)[0]
    said = json.loads(os.read(ready, 65536))
    assert said["ready"] is False
    assert "spec" in said["message"]
    assert spawner.receive()["op"] == "exited"


def orphaner(file: Path) -> list[str]:
    """A shim below which two processes run: its child, and that one's."""
    return ["/bin/sh", "-c", f"(sleep 1001 & echo $! >{file}; wait; true) & exec sleep 1002"]


def pid_in(file: Path) -> int:
    return int(until(lambda: file.exists() and file.read_text(), "it is written"))


def test_what_a_dead_shim_leaves_is_ended_and_what_a_live_one_runs_is_not(spawner: Conversation) -> None:
    """No cgroup and no leash of theirs: bubblewrap's own init has none before its other half lets it go on."""
    pids = []
    for seq in (1, 2):
        spawner.ask(seq=seq, argv=orphaner(spawner.directory / f"pid{seq}"))
        assert spawner.receive()["op"] == "spawned"
        pids.append(pid_in(spawner.directory / f"pid{seq}"))
    kill_pid(spawner.pids[0])
    assert spawner.receive()["seq"] == 1
    until(lambda: not is_alive(pids[0]), "the orphan of the dead one is ended")
    assert is_alive(pids[1])
    kill_pid(spawner.pids[1])
    until(lambda: not is_alive(pids[1]), "and that of the other after it")


def test_an_orphan_that_could_not_be_looked_for_is_ended_when_it_can(spawner: Conversation) -> None:
    spawner.ask(argv=orphaner(spawner.directory / "pid"))
    assert spawner.receive()["op"] == "spawned"
    orphan = pid_in(spawner.directory / "pid")
    taken = sorted(int(fd.name) for fd in Path(f"/proc/{spawner.process.pid}/fd").iterdir())
    limits = resource.prlimit(spawner.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(spawner.process.pid, resource.RLIMIT_NOFILE, (free_number(taken, 1) - 1, limits[1]))
    kill_pid(spawner.pids[0])
    assert spawner.receive()["op"] == "exited"
    spawner.ask(seq=2, argv=sleeper())
    assert spawner.receive()["op"] == "failed"  # it has looked for orphans before this, and saw none
    assert is_alive(orphan)
    resource.prlimit(spawner.process.pid, resource.RLIMIT_NOFILE, limits)
    until(lambda: not is_alive(orphan), "it is ended all the same")


def test_who_is_given_up_while_it_hangs_never_becomes_a_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("BOXLITED_FAILPOINTS", f"hook.before_pid_file=pause:{gate}")
    conversation = Conversation(tmp_path)
    try:
        ready = conversation.ask(seq=3, argv=sleeper())
        conversation.fds.append(reader_at(gate))  # holds it there
        conversation.ours.send(json.dumps({"op": "cancel", "seq": 3}).encode())
        told = conversation.receive()
        assert (told["op"], told["seq"]) == ("failed", 3)
        assert select.select([ready], [], [], WAIT_SECONDS)[0]
        assert os.read(ready, 1) == b""
        assert not (tmp_path / "shim.pid").exists()
        conversation.ours.send(json.dumps({"op": "cancel", "seq": 3}).encode())  # long gone: nobody is hit
    finally:
        conversation.close()


def test_what_a_live_shim_sent_away_is_none_of_ours(spawner: Conversation) -> None:
    """A helper whose parent has ended comes to us as well; its session's leader lives."""
    file = spawner.directory / "helper"
    spawner.ask(seq=1, argv=["/bin/sh", "-c", f"(sleep 1001 & echo $! >{file}); exec sleep 1002"])
    assert spawner.receive()["op"] == "spawned"
    helper = pid_in(file)
    spawner.ask(seq=2, argv=orphaner(spawner.directory / "other"))
    assert spawner.receive()["op"] == "spawned"
    orphan = pid_in(spawner.directory / "other")
    kill_pid(spawner.pids[1])
    until(lambda: not is_alive(orphan), "the spawner ends orphans")
    assert is_alive(helper)
    kill_pid(spawner.pids[0])
    until(lambda: not is_alive(helper), "its own end comes with its shim's")


def test_without_a_free_descriptor_a_spawn_fails_and_the_next_one_succeeds(spawner: Conversation) -> None:
    """At each of its own steps: the limit is raised by one until a spawn goes through."""
    fds = Path(f"/proc/{spawner.process.pid}/fd")
    before = sorted(int(fd.name) for fd in fds.iterdir())
    limits = resource.prlimit(spawner.process.pid, resource.RLIMIT_NOFILE)
    told: list[str] = []
    for more in range(1, 40):
        resource.prlimit(spawner.process.pid, resource.RLIMIT_NOFILE, (free_number(before, more), limits[1]))
        spawner.ask(seq=more, argv=sleeper())
        answer = spawner.receive()
        if answer["op"] == "spawned":
            break
        assert (answer["op"], answer["seq"]) == ("failed", more)
        told.append(answer["stage"])
    assert {"request", "spawner"} <= set(told), told
    resource.prlimit(spawner.process.pid, resource.RLIMIT_NOFILE, limits)
    spawner.ask(seq=99, argv=sleeper())
    assert spawner.receive()["op"] == "spawned"
    until(lambda: sorted(int(fd.name) for fd in fds.iterdir()) == before, "it holds what it held")
    children = Path(f"/proc/{spawner.process.pid}/task/{spawner.process.pid}/children")
    until(
        lambda: sorted(map(int, children.read_text().split())) == sorted(spawner.pids), "no child of a failure is left"
    )


def free_number(taken: list[int], count: int) -> int:
    """The limit that leaves so many numbers free."""
    number = 0
    while count:
        count -= number not in taken
        number += 1
    return number


def test_a_sealed_spec_cannot_be_changed() -> None:
    fd = sealed_memfd(b"content")
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        assert os.read(fd, 100) == b"content"
    finally:
        os.close(fd)
