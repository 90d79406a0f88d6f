"""`shim.pid`: whatever lies there is a record by the letter of the format, or a StorageError."""

from __future__ import annotations

import re

from boxlited.errors import StorageError
from boxlited.supervisor.pidfile import MAX_FILE_BYTES, PID_RECORD_MAX_BYTES, PidFileReader, PidRecord, parse_start_time
from tests.fuzz.scratch import scratch

NUMBER = re.compile(r"\s*\+?([0-9]+)\s*")
FILE = scratch() / "shim.pid"


def check(data: bytes) -> None:
    stamp = parse_start_time(data)
    assert stamp is None or 0 <= stamp < 2**64
    record = _decoded(data)
    if len(data) <= MAX_FILE_BYTES:
        assert _read(data) == record
    lines = data.split(b"\n")
    pid = _number(lines[0], 2**32)
    assert (record is None) == (pid is None)
    if record is not None:
        assert record == (pid, _number(lines[1], 2**64) if len(lines) > 1 else None)
        assert PidRecord.decode(record.encode()) == record
        assert len(record.encode()) <= PID_RECORD_MAX_BYTES


def _decoded(data: bytes) -> PidRecord | None:
    try:
        return PidRecord.decode(data)
    except StorageError as error:
        assert error.message.isprintable()
        return None


def _read(data: bytes) -> PidRecord | None:
    FILE.write_bytes(data)
    try:
        return PidFileReader(FILE).read()
    except StorageError:
        return None


def _number(line: bytes, end: int) -> int | None:
    """The rule of the format, in one expression."""
    try:
        match = NUMBER.fullmatch(line.decode())
    except UnicodeDecodeError:
        return None
    digits = match[1].lstrip("0") or "0" if match else ""
    return int(digits) if 0 < len(digits) <= 20 and int(digits) < end else None
