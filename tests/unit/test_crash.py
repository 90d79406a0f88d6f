"""Crash reports: specific, bounded, and harmless whatever the box wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.errors import ResourceExhausted
from boxlited.model import Box, BoxID, BoxSpec
from boxlited.supervisor.crash import MAX_LINE, MAX_LINES, CrashReport, excerpt, sanitize, tail
from boxlited.supervisor.exitfile import ERROR_KINDS, KINDS, ExitInfo, write_exit_file
from boxlited.supervisor.kernel import ExitStatus, signal_name
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.reasons import Reasons
from tests.unit.limits import no_free_descriptor

BOX = Box(box_id=BoxID.parse("a" * 16), name="web", spec=BoxSpec(image="host"))


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


def test_every_error_kind_has_its_likely_cause() -> None:
    said = {kind: report(ExitInfo("error", 1, message="m", error_kind=kind)).user_message for kind in ERROR_KINDS}
    assert all("Likely: " in text for text in said.values()), said
    assert len(set(said.values())) == len(ERROR_KINDS)
    assert report(ExitInfo("error", 1, message="m")).user_message == said["engine"]
    assert report(ExitInfo("error", 1, error_kind="made up")).error_kind == "made up"


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (1, "the program itself"),
        (126, "not be executed"),
        (127, "not found"),
        (139, "SIGSEGV"),
        (255, "program itself"),
    ],
)
def test_exit_codes_have_likely_causes(code: int, word: str) -> None:
    text = report(ExitInfo("exited", code)).user_message
    assert f"exit code {code}." in text
    assert word in text


def test_success_has_no_causes() -> None:
    assert "Likely" not in report(ExitInfo("exited", 0)).user_message


def test_an_end_that_the_shim_could_not_tell_apart_is_said_so() -> None:
    text = report(ExitInfo("signal", 137, signal="SIGKILL", ambiguous=True)).summary
    assert text == "box web was killed by SIGKILL (exit code 137), or ended by itself with code 137."


@pytest.mark.parametrize("info", [None, ExitInfo("signal", 137, signal="SIGKILL"), ExitInfo("exited", 137)])
def test_the_out_of_memory_killer_is_named_before_anything_else(info: ExitInfo | None) -> None:
    text = report(info, ExitStatus(signal=9), oom=True).user_message
    assert "out-of-memory killer" in text
    assert "memory_mib" in text


@pytest.mark.parametrize("number", range(1, 65))
def test_a_shim_killed_by_any_signal_is_told_by_its_name(number: int) -> None:
    text = report(None, ExitStatus(signal=number)).user_message
    assert f"the shim was killed by {signal_name(number)} and left no exit file" in text
    assert "Likely: " in text


def test_a_shim_that_exited_without_a_record_is_not_said_to_be_killed() -> None:
    made = report(None, ExitStatus(code=3))
    assert "its shim exited with code 3" in made.summary
    assert "left no exit file" in made.summary
    assert "killed" not in made.user_message
    assert "the disk is full or fails" in made.user_message
    assert "shim: code 3" in made.debug_info


def test_paths_cannot_fool_a_terminal_either() -> None:
    made = CrashReport.build("web", None, None, False, b"", b"", "/a\x1b[2J", "/b\nc")
    assert made.user_message.isprintable()
    assert all(line.isprintable() for line in made.debug_info.split("\n"))


ENDS = st.builds(
    ExitInfo,
    st.sampled_from(sorted(KINDS)),
    st.integers(-(2**31), 2**31 - 1),
    signal=st.none() | st.text(max_size=2000),
    message=st.none() | st.text(max_size=2000),
    location=st.none() | st.text(max_size=2000),
    error_kind=st.none() | st.sampled_from(sorted(ERROR_KINDS)),
)


@given(st.none() | ENDS, st.none() | st.builds(ExitStatus, code=st.integers(0, 255)), st.booleans(), st.binary())
def test_every_report_says_what_happened_and_where_to_look_and_is_bounded(
    info: ExitInfo | None, status: ExitStatus | None, oom: bool, console: bytes
) -> None:
    made = report(info, status, oom=oom, console=console)
    assert made.user_message.startswith("box web ")
    assert made.user_message.endswith("Look at /d/logs/console.log and /d/shim.stderr.")
    assert made.user_message.isprintable()
    assert len(made.user_message) <= 3 * MAX_LINE
    assert made.user_message.startswith(made.summary[:-1])
    assert len(made.debug_info) <= (2 * MAX_LINES + 6) * MAX_LINE


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


@pytest.mark.parametrize("text", ["A" * (1 << 20), "\x1b" * 10_000, "\n" * 10_000])
def test_a_long_line_is_cut_and_shows_that_it_was(text: str) -> None:
    assert len(sanitize(text)) == MAX_LINE
    assert sanitize(text).endswith("…")
    assert all(len(line) <= MAX_LINE for line in excerpt(text.encode()).split("\n"))
    assert excerpt(b"x\n" * 10_000).count("\n") == MAX_LINES - 1


def test_escapes_are_shown_and_not_obeyed() -> None:
    assert sanitize("\U000e0041\u2028\ud800\x9b") == "\\U000e0041\\u2028\\ud800\\x9b"
    assert sanitize("é漢😀 ok") == "é漢😀 ok"
    assert sanitize("\x1b[2J\u202eabc\r\n") == "\\x1b[2J\\u202eabc\\x0d\\x0a"


def test_tail_reads_the_end_and_refuses_links(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 10000 + b"end")
    assert tail(log, 3) == b"end"
    (tmp_path / "link").symlink_to(log)
    assert tail(tmp_path / "link", 3) == b""
    assert tail(tmp_path / "none", 3) == b""


def test_tail_of_what_cannot_be_read_is_not_told_as_empty(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("the reason")
    with no_free_descriptor():
        assert tail(tmp_path / "log", 100) == b"(could not be read: Too many open files)"


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_tail_of_what_is_no_regular_file_is_empty_and_does_not_wait(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert tail(path, 10) == b""


@pytest.mark.parametrize("previous", [False, True])
def test_a_record_that_cannot_be_read_now_is_not_told_as_none(tmp_path: Path, *, previous: bool) -> None:
    home = HomeLayout(tmp_path)
    layout = home.box(BOX.box_id)
    layout.directory.mkdir(parents=True)
    write_exit_file(layout.exit_previous if previous else layout.exit_file, ExitInfo("signal", 134, signal="SIGABRT"))
    reasons = Reasons(home)
    read = reasons.previous if previous else reasons.active
    with no_free_descriptor(), pytest.raises(ResourceExhausted, match="read the exit file"):
        read(BOX)
    found = read(BOX)
    assert found is not None
    assert "SIGABRT" in found.user_message


def test_a_record_of_the_run_before_that_is_refused_is_told_as_such(tmp_path: Path) -> None:
    home = HomeLayout(tmp_path)
    layout = home.box(BOX.box_id)
    layout.directory.mkdir(parents=True)
    assert Reasons(home).previous(BOX) is None
    layout.exit_previous.symlink_to("/etc/passwd")
    found = Reasons(home).previous(BOX)
    assert found is not None
    assert "refused: the exit file is a link" in found.user_message
