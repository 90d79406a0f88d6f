"""The seam to the kernel against the kernel itself, and the fake one held against it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.supervisor.kernel import ExitStatus, Kernel, KernelProtocol, ProcStat, parse_stat, signal_name
from boxlited.supervisor.pidfile import PidRecord
from tests.unit.fake_kernel import FakeKernel

NOBODY = 65534
COMM = st.lists(st.sampled_from([b")", b"(", b" ", b"S", b"1", b"\xff"]), max_size=20).map(b"".join)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def stat_line(comm: bytes, state: str = "S", ppid: int = 7, start_time: int = 99) -> bytes:
    return b"42 (%s) %s %d %s%d 0 0\n" % (comm, state.encode(), ppid, b"0 " * 17, start_time)


@given(COMM, st.sampled_from("RSDZTtXxI"), st.integers(0, 2**31), st.integers(0, 2**64 - 1))
def test_stat_is_split_at_the_last_bracket_whatever_the_name(
    comm: bytes, state: str, ppid: int, start_time: int
) -> None:
    assert parse_stat(42, stat_line(comm, state, ppid, start_time)) == ProcStat(42, state, ppid, start_time)


@pytest.mark.parametrize("line", [b"", b"42", b"42 (x", b"42 (x)", b"42 (x) S 1", stat_line(b"x")[:40]])
def test_a_torn_stat_line_is_an_error_and_no_death(line: bytes) -> None:
    with pytest.raises(OSError, match="not understood") as caught:
        parse_stat(42, line)
    assert caught.value.errno == errno.EIO
    assert not isinstance(caught.value, ProcessLookupError)


@given(st.integers(1, 64), st.booleans())
def test_wait_status_of_a_signal(number: int, dumped_core: bool) -> None:
    assert ExitStatus.from_wait_status(number | (0x80 if dumped_core else 0)) == ExitStatus(signal=number)


@given(st.integers(0, 255))
def test_wait_status_of_a_code(code: int) -> None:
    assert ExitStatus.from_wait_status(code << 8) == ExitStatus(code=code)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (6, "SIGABRT"), (40, "SIG40"), (0, "SIG0")])
def test_every_number_has_a_name(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_own_process_as_proc_and_pid_file_tell_it() -> None:
    stat = Kernel().proc_stat(os.getpid())
    assert stat == ProcStat(os.getpid(), stat.state, os.getppid(), PidRecord.current().start_time or 0)


def test_boot_id_and_boot_time() -> None:
    kernel = Kernel()
    assert kernel.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < kernel.boottime() <= kernel.boottime()


@pytest.mark.parametrize("pid", [2**22 + 1, 2**31 - 1, 2**32 - 1])
def test_a_pid_that_cannot_exist_is_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        Kernel().proc_stat(pid)
    assert Kernel().zombie_status(pid) is None
    assert Kernel().process_children(pid) == []


def test_pidfd_of_a_thread_is_refused_with_an_error_that_identity_knows() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(30,))
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(OSError, match=r".") as caught:
            Kernel().pidfd_open(thread.native_id)
        assert caught.value.errno in (errno.EINVAL, errno.ENOENT)
    finally:
        done.set()
        thread.join()


def test_what_is_no_pidfd_has_no_inode_and_no_exit() -> None:
    kernel = Kernel()
    with open(os.devnull, "rb") as file:
        assert kernel.pidfd_inode(file.fileno()) is None
        assert kernel.exit_status(file.fileno()) is None


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "300"])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_children_are_listed(sleeper: subprocess.Popen[bytes]) -> None:
    assert sleeper.pid in Kernel().process_children(os.getpid())


def test_one_process_has_one_inode_and_another_has_another(sleeper: subprocess.Popen[bytes]) -> None:
    kernel = Kernel()
    fds = [kernel.pidfd_open(pid) for pid in (sleeper.pid, sleeper.pid, os.getpid())]
    try:
        first, again, other = (kernel.pidfd_inode(fd) for fd in fds)
    finally:
        for fd in fds:
            kernel.close(fd)
    if first is None:
        pytest.skip("this kernel has no pidfs")
    assert first == again
    assert other is not None
    assert first != other


BECOME_NOBODY = f"""
import os, sys
from boxlited.supervisor.identity import Evidence, identify
from boxlited.supervisor.kernel import Kernel
os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
identity, handle = identify(Kernel(), sys.argv[1], Evidence(), ())
print(identity.kind.value, identity.errno, handle)
"""


def as_nobody(pid_file: Path, prefix: tuple[str, ...] = ()) -> str:
    argv = [*prefix, sys.executable, "-c", BECOME_NOBODY, str(pid_file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_descriptor_that_fails_does_not_make_the_kernel_silent(sleeper: subprocess.Popen[bytes]) -> None:
    kernel, other = Kernel(), Kernel()
    pidfd = kernel.pidfd_open(sleeper.pid)
    try:
        assert kernel.exit_status(1_000_000) is None  # EBADF
        sleeper.kill()
        sleeper.wait()
        assert kernel.exit_status(pidfd) == other.exit_status(pidfd)
    finally:
        kernel.close(pidfd)


@pytest.fixture
def pid_file(sleeper: subprocess.Popen[bytes]) -> Iterator[Path]:
    """Names the sleeper, truly, in a directory that every user may read."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "shim.pid"
        path.write_bytes(PidRecord(sleeper.pid, Kernel().proc_stat(sleeper.pid).start_time).encode())
        yield path


@needs_root
def test_a_process_of_another_user_with_the_right_start_time_is_unknown(pid_file: Path) -> None:
    assert as_nobody(pid_file) == f"unknown {errno.EPERM} None"


@needs_root
def test_a_process_that_hidepid_hides_is_not_said_to_be_dead(pid_file: Path) -> None:
    hide = ("unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh")
    if subprocess.run([*hide, "true"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("no proc with hidepid can be mounted here")
    assert as_nobody(pid_file, prefix=hide) == f"unknown {errno.ENOENT} None"


# -- the fake and the real kernel tell the same story


@dataclass(frozen=True)
class Stage:
    """A kernel with one process whose end can be directed."""

    kernel: KernelProtocol
    pid: int
    die: Callable[[int], None]  # by this signal, unreaped
    reap: Callable[[], None]


@pytest.fixture(params=["fake", "real"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == "fake":
        fake = FakeKernel()
        process = fake.add(2**22 + 5, 1234, inode=9)

        def fake_death(number: int) -> None:
            process.state, process.ended = "Z", ExitStatus(signal=number)

        def fake_reaping() -> None:
            process.reaped = True

        yield Stage(fake, process.pid, fake_death, fake_reaping)
        assert fake.open_fds == {}
        return
    child = subprocess.Popen(["sleep", "300"])

    def real_death(number: int) -> None:
        child.send_signal(number)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    def real_reaping() -> None:
        child.wait(30)

    try:
        yield Stage(Kernel(), child.pid, real_death, real_reaping)
    finally:
        child.kill()
        child.wait()


def test_the_life_of_a_process(stage: Stage) -> None:
    kernel, pid = stage.kernel, stage.pid
    pidfd = kernel.pidfd_open(pid)
    try:
        alive = kernel.proc_stat(pid)
        assert (alive.pid, alive.state in "SRD") == (pid, True)
        assert (kernel.exit_status(pidfd), kernel.zombie_status(pid)) == (None, None)
        kernel.pidfd_signal(pidfd, 0)

        stage.die(signal.SIGTERM)
        zombie = kernel.proc_stat(pid)
        assert (zombie.state, zombie.start_time) == ("Z", alive.start_time)
        assert (kernel.exit_status(pidfd), kernel.zombie_status(pid)) == (None, ExitStatus(signal=signal.SIGTERM))
        kernel.pidfd_signal(pidfd, 0)  # not reaped: its pid is not free yet

        stage.reap()
        assert kernel.zombie_status(pid) is None
        assert kernel.exit_status(pidfd) in (ExitStatus(signal=signal.SIGTERM), None)  # None before kernel 6.15
        for gone in (lambda: kernel.proc_stat(pid), lambda: kernel.pidfd_open(pid), lambda: signal_it(kernel, pidfd)):
            with pytest.raises(ProcessLookupError):
                gone()
    finally:
        kernel.close(pidfd)


def signal_it(kernel: KernelProtocol, pidfd: int) -> None:
    kernel.pidfd_signal(pidfd, 0)


def test_two_pidfds_of_one_process_agree(stage: Stage) -> None:
    first, second = stage.kernel.pidfd_open(stage.pid), stage.kernel.pidfd_open(stage.pid)
    assert first != second
    assert stage.kernel.pidfd_inode(first) == stage.kernel.pidfd_inode(second)
    stage.kernel.close(first)
    stage.kernel.pidfd_signal(second, 0)
    stage.kernel.close(second)
