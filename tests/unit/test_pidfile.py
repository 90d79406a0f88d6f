"""shim.pid: the seed's own tests under their own names, and properties beyond them."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.errors import StorageError
from boxlited.supervisor.pidfile import (
    PID_RECORD_MAX_BYTES,
    PidFileReader,
    PidFileWriter,
    PidRecord,
    parse_start_time,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)


def test_decode_two_line_format() -> None:
    assert PidRecord.decode(b"1234\n98765432\n") == PidRecord(1234, 98765432)


def test_decode_legacy_one_line_format() -> None:
    assert PidRecord.decode(b"4321\n") == PidRecord(4321, None)


def test_decode_no_trailing_newline() -> None:
    assert PidRecord.decode(b"67890") == PidRecord(67890, None)


def test_decode_corrupt_start_time_downgrades() -> None:
    assert PidRecord.decode(b"5555\nnot-a-number\n") == PidRecord(5555, None)


def test_decode_leading_whitespace_pid() -> None:
    assert PidRecord.decode(b"  12345\n  88  \n") == PidRecord(12345, 88)


def test_decode_max_linux_pid() -> None:
    assert PidRecord.decode(b"4194304\n").pid == 4194304


def test_decode_negative_pid_rejected() -> None:
    with pytest.raises(StorageError):
        PidRecord.decode(b"-1\n")


def test_decode_overflow_pid_rejected() -> None:
    with pytest.raises(StorageError):
        PidRecord.decode(b"99999999999\n")


def test_decode_invalid_pid_rejected() -> None:
    with pytest.raises(StorageError):
        PidRecord.decode(b"not-a-pid\n")


def test_decode_empty_rejected() -> None:
    with pytest.raises(StorageError):
        PidRecord.decode(b"")


@pytest.mark.parametrize(
    "line",
    [b"\n5", b"\xff\xfe", b"1 2", b"1_0", b"0x10", b"+", b"++1", b"1.0", b"4294967296", b"9" * 5000, "٣".encode()],
)
def test_decode_what_is_no_unsigned_32_bit_decimal_rejected(line: bytes) -> None:
    with pytest.raises(StorageError):
        PidRecord.decode(line + b"\n7\n")


@pytest.mark.parametrize("line", [b"", b" ", b"-1", b"18446744073709551616", b"\xff\xfe", b"9" * 5000, b"1 2", b"0x1"])
def test_decode_garbled_second_line_downgrades_and_never_fails(line: bytes) -> None:
    assert PidRecord.decode(b"5555\n" + line + b"\n") == PidRecord(5555, None)


def test_decode_carriage_returns_and_leading_zeros_as_the_seed() -> None:
    assert PidRecord.decode(b"+0012\r\n" + b"0" * 100 + b"88\r\n") == PidRecord(12, 88)


def test_encode_round_trips_with_start_time() -> None:
    record = PidRecord(12345, 67890)
    assert record.encode() == b"12345\n67890\n"
    assert PidRecord.decode(record.encode()) == record


def test_encode_round_trips_legacy() -> None:
    assert PidRecord(7).encode() == b"7\n"
    assert PidRecord.decode(b"7\n") == PidRecord(7, None)


def test_current_captures_self() -> None:
    record = PidRecord.current()
    assert record.pid == os.getpid()
    assert record.start_time == parse_start_time(Path("/proc/self/stat").read_bytes())
    assert record.start_time is not None


def test_reader_read_round_trips(tmp_path: Path) -> None:
    (tmp_path / "shim.pid").write_text("1234\n98765432\n")
    assert PidFileReader(tmp_path / "shim.pid").read() == PidRecord(1234, 98765432)


def test_reader_missing_file_is_storage_error() -> None:
    with pytest.raises(StorageError):
        PidFileReader("/nonexistent/shim.pid").read()


def test_writer_writes_record_readable_by_reader(tmp_path: Path) -> None:
    PidFileWriter(tmp_path / "shim.pid").write(PidRecord(999, 424242))
    assert PidFileReader(tmp_path / "shim.pid").read() == PidRecord(999, 424242)


def test_writer_truncates_on_repeated_write(tmp_path: Path) -> None:
    writer = PidFileWriter(tmp_path / "shim.pid")
    writer.write(PidRecord(111111, 1))
    writer.write(PidRecord(22))
    assert PidFileReader(tmp_path / "shim.pid").read() == PidRecord(22, None)


def test_writer_rejects_path_with_interior_nul() -> None:
    with pytest.raises(StorageError, match="NUL"):
        PidFileWriter("/tmp/\0bad")


def test_writer_refuses_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep")
    (tmp_path / "shim.pid").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        PidFileWriter(tmp_path / "shim.pid").write(PidRecord(1, 2))
    assert (tmp_path / "target").read_text() == "keep"


@pytest.mark.parametrize("path", ["/tmp/\0bad", b"/tmp/\0bad", "/tmp/\ud800"])
def test_writer_rejects_what_is_no_path_before_any_fork(path: str | bytes) -> None:
    with pytest.raises(StorageError):
        PidFileWriter(path)


def test_writer_does_not_wait_for_a_reader_of_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shim.pid")
    with pytest.raises(OSError, match="No such device") as caught:
        PidFileWriter(tmp_path / "shim.pid").write(PidRecord(1, 2))
    assert caught.value.errno == errno.ENXIO


def test_writer_reports_a_full_disk() -> None:
    with pytest.raises(OSError, match="space") as caught:
        PidFileWriter("/dev/full").write(PidRecord(1, 2))
    assert caught.value.errno == errno.ENOSPC


def test_writer_reports_a_short_write(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
    try:
        with pytest.raises(OSError, match="short write"):
            PidFileWriter(tmp_path / "shim.pid").write(PidRecord(1234, 5678))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_reader_needs_only_the_first_two_lines_and_leaves_the_rest(tmp_path: Path) -> None:
    content = b"12\n34\n\xff\xfe" + b"x" * 100_000
    (tmp_path / "shim.pid").write_bytes(content)
    assert PidFileReader(tmp_path / "shim.pid").read() == PidRecord(12, 34)
    assert (tmp_path / "shim.pid").read_bytes() == content


def test_reader_lets_errors_pass_that_prove_nothing(tmp_path: Path) -> None:
    (tmp_path / "shim.pid").write_bytes(b"1\n2\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many") as caught:
            PidFileReader(tmp_path / "shim.pid").read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


@given(U32, st.none() | U64)
def test_every_record_round_trips_within_its_bound(pid: int, start_time: int | None) -> None:
    record = PidRecord(pid, start_time)
    assert len(record.encode()) <= PID_RECORD_MAX_BYTES
    assert PidRecord.decode(record.encode()) == record


@given(st.binary(max_size=200))
def test_decode_raises_nothing_but_storage_error(data: bytes) -> None:
    try:
        record = PidRecord.decode(data)
    except StorageError:
        return
    assert 0 <= record.pid < 2**32
    assert record.start_time is None or 0 <= record.start_time < 2**64


@given(U32, U64, st.binary(max_size=50))
def test_lines_after_the_second_are_ignored(pid: int, start_time: int, rest: bytes) -> None:
    assert PidRecord.decode(b"%d\n%d\n" % (pid, start_time) + rest) == PidRecord(pid, start_time)


@given(U32, st.binary(max_size=40))
def test_no_second_line_makes_the_pid_untrustworthy(pid: int, rest: bytes) -> None:
    assert PidRecord.decode(b"%d\n" % pid + rest).pid == pid


@given(st.text(st.sampled_from(") (S1é"), max_size=15), U64)
def test_start_time_is_found_whatever_the_name_holds(comm: str, start_time: int) -> None:
    fields = ["S", *["0"] * 18, str(start_time), "1", "2"]
    line = f"42 ({comm}) {' '.join(fields)}\n".encode()
    assert parse_start_time(line) == start_time


@pytest.mark.parametrize("line", [b"", b"1 (x", b"1 (x) S 1 2", b"1 (x) S" + b" a" * 30])
def test_torn_stat_lines_have_no_start_time(line: bytes) -> None:
    assert parse_start_time(line) is None


@pytest.mark.parametrize("kind", ["fifo", "symlink", "dangling symlink", "directory", "socket"])
def test_what_is_no_regular_file_is_refused_without_blocking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "shim.pid"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        (tmp_path / "real").write_text("1\n1\n")
        path.symlink_to(tmp_path / "real")
    elif kind == "dangling symlink":
        path.symlink_to(tmp_path / "none")
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    with pytest.raises(StorageError):
        PidFileReader(path).read()
