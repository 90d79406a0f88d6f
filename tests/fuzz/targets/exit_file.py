"""`exit`: a bounded record, nothing, or a refusal; and what is made of it is harmless wherever it is shown."""

from __future__ import annotations

import msgspec

from boxlited.store.codec import clean
from boxlited.supervisor.crash import MAX_LINE, CrashReport
from boxlited.supervisor.exitfile import (
    ERROR_KINDS,
    KINDS,
    MAX_EXIT_BYTES,
    MAX_TEXT,
    ExitFileUnreadable,
    ExitInfo,
    decode,
    encode,
)


def check(data: bytes) -> None:
    info = None
    if len(data) <= MAX_EXIT_BYTES:
        try:
            info = decode(data)
        except ExitFileUnreadable as error:
            assert error.message.isprintable()
    if info is not None:
        _check_record(info)
    _check_report(info, data)


def _check_record(info: ExitInfo) -> None:
    assert info.kind in KINDS
    assert -(2**31) <= info.exit_code < 2**31
    assert info.error_kind is None or info.error_kind in ERROR_KINDS
    assert info.signal is None or info.signal.isascii()
    for text in (info.message, info.location, info.run_id):
        assert text is None or len(text) <= MAX_TEXT
    again = encode(info)
    assert len(again) <= MAX_EXIT_BYTES
    back = decode(again)
    assert back is not None
    assert (back.kind, back.exit_code, back.signal) == (info.kind, info.exit_code, info.signal)


def _check_report(info: ExitInfo | None, log: bytes) -> None:
    """It goes to a terminal, a row, a log and a reply."""
    report = CrashReport.build("box", info, None, False, log[:4096], log[-4096:], "/stderr", "/console")
    assert report.user_message.isprintable()
    assert len(report.user_message) < 4 * MAX_LINE
    for line in report.debug_info.split("\n"):
        assert line.isprintable()
        assert len(line) <= MAX_LINE + 40
    msgspec.json.encode(report)
    row = {"exit_signal": info.signal, "error_kind": info.error_kind} if info else {}
    msgspec.json.encode(clean({**row, "reason": report.user_message, "summary": report.summary}))
