"""The seam to the kernel: what it makes of the kernel's words, and of the process that asks."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.supervisor.kernel import ExitStatus, Kernel, ProcStat, parse_stat, signal_name
from boxlited.supervisor.pidfile import PidRecord

COMM = st.lists(st.sampled_from([b")", b"(", b" ", b"S", b"1", b"\xff"]), max_size=20).map(b"".join)


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
