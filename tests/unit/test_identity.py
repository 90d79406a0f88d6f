"""Process identity over a table, against a fake kernel that is itself held against the real one."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.model import IdentityKind
from boxlited.supervisor.identity import Evidence, classify, identify
from boxlited.supervisor.kernel import Kernel, KernelProtocol, ProcStat
from boxlited.supervisor.pidfile import PidRecord
from tests.unit.fake_kernel import FakeKernel, FakeProcess

PID = 4242


@pytest.fixture
def kernel() -> FakeKernel:
    kernel = FakeKernel()
    kernel.add(PID, start_time=777, inode=55)
    return kernel


def look(kernel: KernelProtocol, tmp_path: Path, content: bytes, evidence: Evidence | None = None) -> IdentityKind:
    path = tmp_path / "shim.pid"
    path.write_bytes(content)
    identity, handle = identify(kernel, path, evidence or Evidence(), {os.getpid(), 999})
    assert (handle is not None) is (identity.kind in (IdentityKind.VERIFIED, IdentityKind.LEGACY))
    assert (identity.pid is not None) is (handle is not None)
    assert (identity.errno is not None) is (identity.kind is IdentityKind.UNKNOWN)
    if handle is not None:
        handle.close()
    return identity.kind


@pytest.mark.parametrize(
    ("content", "evidence", "kind"),
    [
        (b"4242\n777\n", Evidence(), IdentityKind.VERIFIED),
        (b"4242\n777\n", Evidence("boot-1", 55), IdentityKind.VERIFIED),
        (b"4242\n777\nservices-mux-v1\n", Evidence(), IdentityKind.VERIFIED),
        (b"4242\n", Evidence(), IdentityKind.LEGACY),
        (b"4242\nrubbish\n", Evidence(), IdentityKind.LEGACY),
        (b"4242\n778\n", Evidence(), IdentityKind.ABSENT),
        (b"4242\n777\n", Evidence("boot-0", None), IdentityKind.ABSENT),
        (b"4242\n", Evidence("boot-0", None), IdentityKind.ABSENT),
        (b"4242\n777\n", Evidence("boot-1", 56), IdentityKind.ABSENT),
        (b"4243\n777\n", Evidence(), IdentityKind.ABSENT),
        (b"0\n777\n", Evidence(), IdentityKind.ABSENT),
        (b"1\n777\n", Evidence(), IdentityKind.ABSENT),
        (b"999\n777\n", Evidence(), IdentityKind.ABSENT),
        (b"4294967295\n777\n", Evidence(), IdentityKind.ABSENT),
        (b"garbage", Evidence(), IdentityKind.ABSENT),
        (b"x" * 10240, Evidence(), IdentityKind.ABSENT),
    ],
)
def test_identity_table(
    kernel: FakeKernel, tmp_path: Path, content: bytes, evidence: Evidence, kind: IdentityKind
) -> None:
    kernel.add(1, 777)
    kernel.add(999, 777)
    assert look(kernel, tmp_path, content, evidence) is kind
    assert kernel.open_fds == {}


def test_own_pid_is_never_a_shim(tmp_path: Path) -> None:
    kernel = FakeKernel()
    kernel.add(os.getpid(), 777)
    path = tmp_path / "shim.pid"
    path.write_text(f"{os.getpid()}\n777\n")
    assert identify(kernel, path, Evidence(), ())[0].kind is IdentityKind.ABSENT  # even when nobody forbids it


def test_missing_file_is_absent(kernel: FakeKernel, tmp_path: Path) -> None:
    identity, handle = identify(kernel, tmp_path / "none", Evidence(), ())
    assert (identity.kind, handle) == (IdentityKind.ABSENT, None)


@pytest.mark.parametrize("call", ["boot_id", "pidfd_open", "proc_stat", "pidfd_inode", "pidfd_signal"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("start_time", [777, 778])
def test_a_pid_that_changes_hands_while_it_is_looked_at_never_leads_to_the_new_one(
    kernel: FakeKernel, tmp_path: Path, call: str, when: str, start_time: int
) -> None:
    """The descriptor is opened first and asked last: it is of the process that was verified, or nothing comes."""
    first, path = kernel.processes[PID], tmp_path / "shim.pid"
    path.write_text(f"{PID}\n777\n")
    kernel.around = (call, when, lambda: reuse(kernel, first, start_time))
    evidence = Evidence("boot-1", None if start_time != 777 else 55)
    _identity, handle = identify(kernel, path, evidence, ())
    if handle is not None:
        assert kernel.open_fds[handle.pidfd] is first
        handle.close()
    assert kernel.open_fds == {}


def reuse(kernel: FakeKernel, first: FakeProcess, start_time: int) -> None:
    first.reaped = True
    kernel.add(PID, start_time, inode=56)


def test_zombie_is_absent(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.processes[PID].state = "Z"
    assert look(kernel, tmp_path, b"4242\n777\n") is IdentityKind.ABSENT
    assert kernel.open_fds == {}


@pytest.mark.parametrize("call", ["pidfd_open", "proc_stat", "pidfd_inode", "pidfd_signal"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.EACCES])
def test_a_passing_error_is_unknown_and_never_absent(
    kernel: FakeKernel, tmp_path: Path, call: str, number: int
) -> None:
    kernel.failures[call] = OSError(number, os.strerror(number))
    assert look(kernel, tmp_path, b"4242\n777\n") is IdentityKind.UNKNOWN
    assert kernel.open_fds == {}


@pytest.mark.parametrize("call", ["pidfd_open", "proc_stat", "pidfd_signal"])
def test_no_such_process_at_any_call_is_absent(kernel: FakeKernel, tmp_path: Path, call: str) -> None:
    kernel.failures[call] = ProcessLookupError(errno.ESRCH, "gone")
    assert look(kernel, tmp_path, b"4242\n777\n") is IdentityKind.ABSENT
    assert kernel.open_fds == {}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT])
def test_a_thread_that_leads_no_group_is_absent(kernel: FakeKernel, tmp_path: Path, number: int) -> None:
    kernel.failures["pidfd_open"] = OSError(number, "not a leader")
    assert look(kernel, tmp_path, b"4242\n777\n") is IdentityKind.ABSENT


def test_a_real_thread_is_absent(tmp_path: Path) -> None:
    """Its /proc entry exists and its start time would agree."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(30,))
    thread.start()
    try:
        assert thread.native_id is not None
        start_time = Kernel().proc_stat(thread.native_id).start_time
        content = f"{thread.native_id}\n{start_time}\n".encode()
        assert look(Kernel(), tmp_path, content) is IdentityKind.ABSENT
    finally:
        done.set()
        thread.join()


def test_boot_id_that_cannot_be_read_is_unknown_where_it_would_decide(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.failures["boot_id"] = OSError(errno.EMFILE, "too many")
    assert look(kernel, tmp_path, b"4242\n777\n", Evidence("boot-1", 55)) is IdentityKind.UNKNOWN
    assert look(kernel, tmp_path, b"4242\n777\n", Evidence(None, 55)) is IdentityKind.VERIFIED


def test_a_process_that_proc_hides_is_unknown(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.failures["proc_stat"] = FileNotFoundError(errno.ENOENT, "hidden")
    assert look(kernel, tmp_path, b"4242\n777\n") is IdentityKind.UNKNOWN


@pytest.mark.parametrize(
    ("content", "evidence", "kind"),
    [
        (b"4242\n777\n", Evidence(), IdentityKind.UNKNOWN),
        (b"4242\n", Evidence(), IdentityKind.UNKNOWN),
        (b"4242\n778\n", Evidence(), IdentityKind.ABSENT),
        (b"4242\n777\n", Evidence(None, 56), IdentityKind.ABSENT),
    ],
)
def test_what_may_not_be_signalled_is_absent_only_when_it_is_a_stranger(
    kernel: FakeKernel, tmp_path: Path, content: bytes, evidence: Evidence, kind: IdentityKind
) -> None:
    kernel.failures["pidfd_signal"] = PermissionError(errno.EPERM, "not yours")
    assert look(kernel, tmp_path, content, evidence) is kind
    assert kernel.open_fds == {}


def test_without_an_inode_from_the_kernel_the_rest_decides(tmp_path: Path) -> None:
    kernel = FakeKernel()
    kernel.add(PID, 777, inode=None)
    assert look(kernel, tmp_path, b"4242\n777\n", Evidence("boot-1", 55)) is IdentityKind.VERIFIED


@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory"])
def test_pid_file_that_is_no_regular_file_is_absent(kernel: FakeKernel, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "shim.pid"
    (tmp_path / "real").write_text("4242\n777\n")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(tmp_path / "real")
    else:
        path.mkdir()
    assert identify(kernel, path, Evidence(), ())[0].kind is IdentityKind.ABSENT


@given(
    recorded=st.none() | st.sampled_from([7, 8]),
    live=st.sampled_from([7, 8]),
    state=st.sampled_from("RSDTtZXxI"),
    known=st.none() | st.sampled_from([5, 6]),
    inode=st.none() | st.sampled_from([5, 6]),
    may_signal=st.booleans(),
)
def test_only_full_agreement_is_ours_and_only_a_difference_is_proof(
    recorded: int | None, live: int, state: str, known: int | None, inode: int | None, *, may_signal: bool
) -> None:
    stat = ProcStat(PID, state, 1, live)
    identity = classify(PidRecord(PID, recorded), Evidence(None, known), stat, inode, may_signal=may_signal)
    differs = state in "ZXx" or recorded not in (None, live) or (None not in (known, inode) and known != inode)
    ours = IdentityKind.LEGACY if recorded is None else IdentityKind.VERIFIED
    expected = IdentityKind.ABSENT if differs else ours if may_signal else IdentityKind.UNKNOWN
    assert identity.kind is expected
    assert identity.reason


def test_pid_file_that_cannot_be_read_for_a_passing_reason_is_unknown(kernel: FakeKernel, tmp_path: Path) -> None:
    import resource

    path = tmp_path / "shim.pid"
    path.write_text("4242\n777\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        identity, _ = identify(kernel, path, Evidence(), ())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (identity.kind, identity.errno) == (IdentityKind.UNKNOWN, errno.EMFILE)
