"""Crash reports: specific, bounded, and harmless whatever the box wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.supervisor.crash import MAX_LINE, CrashReport, excerpt, sanitize, tail
from boxlited.supervisor.exitfile import ExitInfo
from boxlited.supervisor.kernel import ExitStatus


def report(
    info: ExitInfo | None, status: ExitStatus | None = None, *, oom: bool = False, console: bytes = b""
) -> CrashReport:
    return CrashReport.build("web", info, status, oom, b"err", console, "/d/shim.stderr", "/d/logs/console.log")


@pytest.mark.parametrize(
    ("name", "word"),
    [("SIGABRT", "abort"), ("SIGSEGV", "memory"), ("SIGBUS", "mapped file"), ("SIGILL", "instruction"),
     ("SIGSYS", "seccomp"), ("SIGKILL", "out-of-memory")],
)  # fmt: skip
def test_each_signal_has_its_likely_causes(name: str, word: str) -> None:
    text = report(ExitInfo("signal", 134, signal=name)).user_message
    assert name in text
    assert word in text
    assert "/d/shim.stderr" in text
    assert "/d/logs/console.log" in text


def test_the_other_endings() -> None:
    assert "out-of-memory" in report(None, oom=True).user_message
    assert "panicked at f:1:2: boom" in report(ExitInfo("panic", 101, message="boom", location="f:1:2")).user_message
    assert report(ExitInfo("error", 1, message="no kvm", error_kind="unsupported")).error_kind == "unsupported"
    assert "no exit file" in report(None).user_message
    assert "killed by SIGKILL" in report(None, ExitStatus(signal=9)).user_message
    assert "code 3" in report(None, ExitStatus(code=3)).user_message
    assert "exit code 4" in report(ExitInfo("exited", 4)).user_message


def test_summary_is_the_first_sentence() -> None:
    assert report(ExitInfo("signal", 139, signal="SIGSEGV")).summary == "box web was killed by SIGSEGV (exit code 139)."


def test_debug_info_holds_record_and_tails() -> None:
    text = report(ExitInfo("exited", 1), console=b"last words\n").debug_info
    assert "last words" in text
    assert "kind=exited" in text


@given(st.text(max_size=3000))
def test_sanitized_text_is_one_bounded_printable_line(text: str) -> None:
    safe = sanitize(text)
    assert safe.isprintable()
    assert len(safe) <= MAX_LINE


@given(st.binary(max_size=5000))
def test_no_log_reaches_a_report_unescaped(data: bytes) -> None:
    for line in excerpt(data).split("\n"):
        assert line.isprintable()
        assert len(line) <= MAX_LINE


@given(st.text(max_size=200), st.text(max_size=30), st.text(max_size=30))
def test_hostile_records_make_harmless_messages(message: str, signal: str, location: str) -> None:
    for kind in ("signal", "panic", "error"):
        made = report(ExitInfo(kind, 1, signal=signal, message=message, location=location))
        assert made.user_message.isprintable()


def test_escapes_are_shown_and_not_obeyed() -> None:
    assert sanitize("\x1b[2J\u202eabc\r\n") == "\\x1b[2J\\u202eabc\\x0d\\x0a"


def test_tail_reads_the_end_and_refuses_links(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 10000 + b"end")
    assert tail(log, 3) == b"end"
    (tmp_path / "link").symlink_to(log)
    assert tail(tmp_path / "link", 3) == b""
    assert tail(tmp_path / "none", 3) == b""
