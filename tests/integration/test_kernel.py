"""The seam to the kernel against real processes, and the fake one of the unit tests held against it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boxlited.supervisor.identity import Evidence, identify
from boxlited.supervisor.kernel import ExitStatus, Kernel, KernelProtocol
from boxlited.supervisor.pidfile import PidRecord
from boxlited.supervisor.spawn import sealed_memfd
from tests.unit.fake_kernel import FakeKernel

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


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


def test_only_a_sealed_file_in_memory_is_read_as_a_process_input(tmp_path: Path) -> None:
    plain, loose, sealed = tmp_path / "plain", os.memfd_create("loose", os.MFD_ALLOW_SEALING), sealed_memfd(b"spec")
    plain.write_bytes(b"spec")
    os.write(loose, b"spec")
    os.mkfifo(tmp_path / "fifo")
    held = [os.open(plain, os.O_RDONLY), loose, os.open(tmp_path / "fifo", os.O_RDWR), sealed]
    children = [subprocess.Popen(["sleep", "300"], stdin=fd) for fd in held]
    try:
        assert [Kernel().sealed_input(child.pid) for child in children] == [None, None, None, b"spec"]
    finally:
        for fd in held:
            os.close(fd)
        for child in children:
            child.kill()
            child.wait()
    assert Kernel().sealed_input(children[3].pid) is None


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


@pytest.fixture(params=[("exit 0", ExitStatus(code=0)), ("kill -KILL $$", ExitStatus(signal=9))])
def zombie(request: pytest.FixtureRequest) -> Iterator[tuple[int, ExitStatus]]:
    script, ended = request.param
    child = subprocess.Popen(["sh", "-c", script])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        yield child.pid, ended
    finally:
        child.wait()


def test_the_end_of_a_zombie_is_told(zombie: tuple[int, ExitStatus]) -> None:
    pid, ended = zombie
    assert Kernel().zombie_status(pid) == ended


@needs_root
def test_an_end_that_proc_keeps_from_us_is_not_told_as_exited_with_0(zombie: tuple[int, ExitStatus]) -> None:
    """As to a daemon that was started again with fewer capabilities than its shims have."""
    pid, _ = zombie
    asks = "import os, sys; from boxlited.supervisor.kernel import Kernel; os.setresuid(*[65534] * 3)"
    asks += "; print(Kernel().zombie_status(int(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", asks, str(pid)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "None"


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


def scenario(kernel: KernelProtocol, tmp_path: Path, pid: int, start: int, end: object) -> list[object]:
    """The same story for the fake and for the real kernel."""
    said: list[object] = []
    path = tmp_path / "shim.pid"
    path.write_text(f"{pid}\n{start}\n")
    identity, handle = identify(kernel, path, Evidence(), ())
    assert handle is not None
    said += [identity.kind, kernel.proc_stat(pid).start_time == start, handle.exit_status()]
    path.write_text(f"{pid}\n{start + 1}\n")
    said.append(identify(kernel, path, Evidence(), ())[0].kind)
    path.write_text(f"{pid}\n{start}\n")
    end()  # type: ignore[operator]
    said.append(identify(kernel, path, Evidence(), ())[0].kind)
    try:
        handle.signal(0)
    except ProcessLookupError:
        said.append("gone")
    handle.close()
    try:
        kernel.proc_stat(pid)
    except ProcessLookupError:
        said.append("no stat")
    return said


def test_fake_and_real_kernel_tell_the_same_story(tmp_path: Path) -> None:
    fake = FakeKernel()
    process = fake.add(77, 1234)

    def end_fake() -> None:
        process.ended, process.reaped = ExitStatus(signal=9), True

    child = subprocess.Popen(["sleep", "100"])

    def end_real() -> None:
        child.kill()
        child.wait()

    try:
        real = Kernel()
        told_by_real = scenario(real, tmp_path, child.pid, real.proc_stat(child.pid).start_time, end_real)
    finally:
        end_real()
    assert told_by_real == scenario(fake, tmp_path, 77, 1234, end_fake)
    assert fake.open_fds == {}


def test_real_kernel_tells_how_a_child_ended() -> None:
    kernel = Kernel()
    child = subprocess.Popen(["sleep", "100"])
    pidfd = kernel.pidfd_open(child.pid)
    try:
        kernel.pidfd_signal(pidfd, 9)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert kernel.zombie_status(child.pid) == ExitStatus(signal=9)
        child.wait()
        assert kernel.zombie_status(child.pid) is None
        assert kernel.exit_status(pidfd) in (ExitStatus(signal=9), None)
    finally:
        child.kill()
        child.wait()
        kernel.close(pidfd)
