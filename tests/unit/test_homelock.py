"""One daemon per home: the second is refused at once, a dead one's spawner is waited for, a bounded time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from boxlited import homelock
from boxlited.errors import StartupError
from boxlited.homelock import EX_CANTCREAT, acquire
from boxlited.supervisor.kernel import Kernel
from boxlited.supervisor.pidfile import PidRecord
from tests.unit.fake_kernel import FakeKernel
from tests.unit.limits import no_file_space

DEAD = FakeKernel()  # knows no process at all
SIGNED_BY_77 = b"77\n1234\n"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "boxlited.lock"


class Holders:
    """Descriptors of the lock as a daemon and its spawner would hold them; the test closes what is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fds: list[int] = []

    def take(self, kernel: FakeKernel | Kernel = DEAD, content: bytes | None = None) -> int:
        """As a daemon, which this process is unless the content says otherwise."""
        self.fds.append(acquire(self.path, kernel))
        if content is not None:
            self.path.write_bytes(content)
        return self.fds[-1]

    def leave(self) -> None:
        os.close(self.fds.pop(0))

    @contextmanager
    def only_a_spawner_for(
        self, seconds: float, content: bytes, meanwhile: Callable[[], object] = bool
    ) -> Iterator[None]:
        """The daemon is dead; its spawner, who shares the lock, ends a little later."""
        self.fds.append(os.dup(self.take(content=content)))
        self.leave()

        def end() -> None:
            meanwhile()
            self.leave()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        finally:
            timer.join()


@pytest.fixture
def holders(lock: Path) -> Iterator[Holders]:
    holders = Holders(lock)
    yield holders
    while holders.fds:
        holders.leave()


def refusal(path: Path, kernel: FakeKernel | Kernel) -> str:
    before = descriptors()
    with pytest.raises(StartupError) as caught:
        os.close(acquire(path, kernel))
    assert caught.value.exit_code == EX_CANTCREAT
    assert descriptors() == before
    return caught.value.message


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_the_lock_is_private_signed_and_not_inherited(lock: Path, holders: Holders) -> None:
    fd = holders.take()
    assert lock.read_bytes() == PidRecord.current().encode()
    assert lock.stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(fd)


def test_a_second_daemon_is_refused_at_once_and_touches_nothing(lock: Path, holders: Holders) -> None:
    holders.take()
    before = (lock.read_bytes(), lock.stat().st_mtime_ns, lock.stat().st_ino)
    began = time.monotonic()
    said = refusal(lock, Kernel())
    assert time.monotonic() - began < 1
    assert (lock.read_bytes(), lock.stat().st_mtime_ns, lock.stat().st_ino) == before
    assert f"pid {os.getpid()}" in said
    assert str(lock.parent) in said
    assert "--home" in said


def test_a_home_that_was_left_is_taken_again(lock: Path, holders: Holders) -> None:
    lock.write_bytes(b"4000000000\n18446744073709551615\n" + b"x" * 500)
    for _ in range(3):
        holders.take()
        assert lock.read_bytes() == PidRecord.current().encode()
        holders.leave()


def test_the_spawner_keeps_the_home_of_its_live_daemon_taken(lock: Path, holders: Holders) -> None:
    holders.fds.append(os.dup(holders.take()))
    holders.leave()
    assert f"pid {os.getpid()}" in refusal(lock, Kernel())
    holders.leave()
    holders.take(Kernel())


def kernel_with(state: str, start_time: int) -> FakeKernel:
    kernel = FakeKernel()
    kernel.add(77, start_time).state = state
    return kernel


@pytest.mark.parametrize(
    ("kernel", "content"),
    [
        (FakeKernel(), SIGNED_BY_77),  # gone
        (kernel_with("Z", 1234), SIGNED_BY_77),
        (kernel_with("X", 1234), SIGNED_BY_77),
        (kernel_with("S", 1235), SIGNED_BY_77),  # its pid went to another process
        (kernel_with("S", 1234), b"77\n"),  # no start time: nothing proves that it is the one
        (kernel_with("S", 1234), b""),
        (kernel_with("S", 1234), b"\xff\n1234\n"),
        (FakeKernel(failures={"proc_stat": OSError(24, "EMFILE")}), SIGNED_BY_77),
    ],
)
def test_the_spawner_of_a_daemon_not_proven_alive_is_waited_for(
    lock: Path, holders: Holders, kernel: FakeKernel, content: bytes
) -> None:
    with holders.only_a_spawner_for(0.03, content):
        mine = acquire(lock, kernel)
    holders.fds.append(mine)
    assert lock.read_bytes() == PidRecord.current().encode()


def test_the_wait_for_a_spawner_that_does_not_end_is_bounded(
    lock: Path, holders: Holders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homelock, "LINGER_SECONDS", 0.05)
    holders.take(content=SIGNED_BY_77)
    assert "a process that does not end" in refusal(lock, DEAD)
    assert lock.read_bytes() == SIGNED_BY_77


def test_a_live_daemon_is_named_by_the_record_that_it_signed(lock: Path, holders: Holders) -> None:
    holders.take(content=SIGNED_BY_77)
    assert "pid 77" in refusal(lock, kernel_with("S", 1234))


# ---- what lies at the lock's path


def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_not_taken_for_the_homes(lock: Path, holders: Holders) -> None:
    fresh = lock.with_suffix(".new")
    fresh.touch()
    with holders.only_a_spawner_for(0.03, SIGNED_BY_77, meanwhile=lambda: fresh.rename(lock)):
        mine = acquire(lock, DEAD)
    holders.fds.append(mine)
    assert os.path.samestat(os.fstat(mine), lock.stat())


def test_what_is_no_regular_file_is_refused_and_left_alone(lock: Path) -> None:
    target = lock.with_name("target")
    target.write_bytes(b"precious")
    lock.symlink_to(target)
    assert "Too many levels" in refusal(lock, DEAD)
    assert target.read_bytes() == b"precious"
    lock.unlink()
    os.mkfifo(lock)
    assert "not a regular file" in refusal(lock, DEAD)
    lock.unlink()
    lock.mkdir()
    assert "Is a directory" in refusal(lock, DEAD)
    assert "No such file" in refusal(lock / "missing" / "x", DEAD)


def test_a_full_disk_keeps_nobody_from_holding_the_home(lock: Path, holders: Holders) -> None:
    lock.write_bytes(SIGNED_BY_77)
    with no_file_space(), capture_logs() as logs:
        holders.take()
    assert len(logs) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), st.just(b"\n" * 9999), st.integers().map(lambda n: b"%d\n%d\n" % (n, n))))
def test_whatever_a_lock_file_holds_it_can_be_taken_when_it_is_free(lock: Path, content: bytes) -> None:
    lock.write_bytes(content)
    os.close(acquire(lock, Kernel()))
    assert lock.read_bytes() == PidRecord.current().encode()
