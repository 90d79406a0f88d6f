"""Promises of boxctl's pure parts: tables fit, words are harmless, options mean what they say."""

from __future__ import annotations

import contextlib
import math
import time
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from boxlited.cli import escape, humanize, parse, tables
from boxlited.cli.endings import exit_code_of
from boxlited.cli.event_lines import event_line
from boxlited.cli.look import table_of
from boxlited.cli.streams import stats_table
from boxlited.cli.system import reconcile_lines
from boxlited.cli.top import lines_of
from boxlited.errors import InvalidArgument
from boxlited.model import BoxSpec

NOW = 1_750_000_000.0
statuses = st.sampled_from(["configured", "running", "stopping", "stopped", "failed", "unknown", "weird"])
words = st.text(max_size=80)
boxes = st.fixed_dictionaries(
    {"name": words, "box_id": words, "status": statuses},
    optional={
        "pid": st.none() | st.integers(0, 2**31),
        "engine": words,
        "started_at": st.none() | st.floats(0, 4e9) | words,
        "ended_at": st.none() | st.floats(0, 4e9),
        "exit_code": st.none() | st.integers(0, 255),
        "exit_signal": st.none() | words,
        "failure_reason": st.none() | words,
        "warning": st.none() | words,
        "stop_cause": st.none() | words,
    },
)


def is_harmless(text: str) -> bool:
    unseen = "\u200b\u200e\u202e\u2066\ufeff\u00ad"
    return all(
        unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} and character not in unseen
        for character in text
    )


# ---- tables


@given(rows=st.lists(boxes, max_size=6), width=st.integers(1, 220))
def test_no_line_of_ps_is_wider_than_the_terminal(rows, width) -> None:
    for line in table_of(rows, NOW, width, full_ids=False):
        assert cell_len(line) <= width


@given(rows=st.lists(boxes, max_size=4), width=st.none() | st.integers(1, 220))
def test_ps_shows_each_box_on_one_harmless_line(rows, width) -> None:
    lines = table_of(rows, NOW, width, full_ids=False)
    assert len(lines) == len(rows) + 1
    assert all(is_harmless(line) and len(line.splitlines()) <= 1 for line in lines)


@given(names=st.lists(words, max_size=4), width=st.integers(1, 120))
def test_stats_and_reconcile_fit_the_terminal_too(names, width) -> None:
    use = {"cpu_percent": 12.5, "memory_bytes": 10**9, "pids": 3}
    lines = stats_table([({"name": name, "box_id": "a" * 16}, use) for name in names], width)
    lines += reconcile_lines([{"name": name, "action": name} for name in names], False, width)
    assert max(map(cell_len, lines)) <= width


def test_columns_go_in_order_of_worth_and_the_name_stays() -> None:
    box = {
        "name": "database", "box_id": "abcdefghijklmnop", "status": "failed", "engine": "sandbox",
        "ended_at": NOW - 120, "exit_signal": "SIGSEGV", "pid": None, "failure_reason": "r" * 100,
    }  # fmt: skip
    wide, middle, narrow = (table_of([box], NOW, width, full_ids=False) for width in (200, 60, 20))
    assert wide[0].split() == ["NAME", "ID", "STATUS", "PID", "ENGINE", "REASON"]
    assert "r" * 100 in wide[1]
    assert middle[0].split()[:3] == ["NAME", "ID", "STATUS"]
    assert "failed (SIGSEGV) 2m ago" in middle[1]
    assert narrow[0].split() == ["NAME", "STATUS"]
    assert narrow[1].startswith("database")


def test_no_width_means_that_nothing_is_cut() -> None:
    long = "x" * 5000
    assert long in table_of([{"name": "a", "failure_reason": long, "status": "failed"}], NOW, None, True)[1]


@given(text=words, width=st.integers(0, 40))
def test_a_cut_text_fits_and_an_uncut_one_is_whole(text: str, width: int) -> None:
    cut = tables.cut(text, width)
    assert tables.cells(cut) <= width
    assert cut == text or tables.cells(text) > width


# ---- escaping


@given(st.text())
def test_a_line_is_one_line_without_control_characters(text: str) -> None:
    assert is_harmless(escape.line(text))


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\x0ab"), ("\x9b31m", "\\x9b31m"), ("\x07", "\\x07"),
        ("\u202egpj.exe", "\\u202egpj.exe"), ("a\u200bb", "a\\u200bb"), ("\udc80", "\\udc80"), ("é", "é"),
    ],
)  # fmt: skip
def test_what_could_fool_a_terminal_is_made_visible(evil: str, shown: str) -> None:
    assert escape.line(evil) == shown


def _filtered(*chunks: bytes) -> str:
    stream = escape.StreamFilter()
    return "".join([*(stream.feed(chunk) for chunk in chunks), stream.feed(b"", final=True)])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\n\ttab", "plain\n\ttab"),
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        (b"\x1b[38;2;1;2;3m", "\x1b[38;2;1;2;3m"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b"\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),
        (b"\x1b[6n", "\\x1b[6n"),
        (b"\x1bPq", "\\x1bPq"),
        (b"dos\r\n", "dos\n"),
        (b"over\rwrite", "over\\x0dwrite"),
        (b"\xc2\x9b31m", "\\x9b31m"),
        (b"\xff", "\ufffd"),
        (b"end\x1b", "end\\x1b"),
        (b"\x1b[" + b"1;" * 100 + b"m", "\\x1b[" + "1;" * 100 + "m"),
    ],
)
def test_a_log_on_a_terminal_keeps_colours_and_nothing_else(raw: bytes, shown: str) -> None:
    assert _filtered(raw) == shown


@given(raw=st.binary(max_size=60) | st.text(alphabet="\x1b[]0;m\r\nHJé", max_size=30).map(str.encode), data=st.data())
def test_a_log_is_the_same_however_it_was_cut(raw: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(raw)))
    assert _filtered(raw[:cut], raw[cut:]) == _filtered(raw)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_only_colours_get_an_escape_character_through(chunks: list[bytes]) -> None:
    import re

    shown = re.sub(r"\x1b\[[0-9;:]*m", "", _filtered(*chunks))
    assert is_harmless(shown.replace("\n", "").replace("\t", ""))


@given(
    st.fixed_dictionaries(
        {"kind": words, "name": words, "data": st.dictionaries(words, words | st.integers(), max_size=3)}
    )
)
def test_an_event_is_one_harmless_line(event) -> None:
    assert is_harmless(event_line(event))


def test_a_value_of_an_event_cannot_pose_as_another_field() -> None:
    event = {"seq": 3, "kind": "failed", "name": "web", "data": {"reason": 'x" exit_code=0', "code": 1}}
    assert event_line(event).endswith(r'reason="x\" exit_code=0" code=1')


# ---- words for states


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ({"status": "running", "started_at": NOW - 185}, "running 3m"),
        ({"status": "running", "started_at": "2025-06-15T15:06:37Z"}, "running 3s"),
        ({"status": "failed", "ended_at": NOW - 120}, "failed 2m ago"),
        ({"status": "stopped", "exit_code": 0, "ended_at": NOW - 3700}, "stopped (0) 1h ago"),
        ({"status": "stopped", "exit_code": 3, "updated_at": NOW - 5}, "stopped (3) 5s ago"),
        ({"status": "failed", "exit_code": 139, "exit_signal": "SIGSEGV"}, "failed (SIGSEGV)"),
        ({"status": "stopped", "desired": "stopped", "exit_code": 1, "ended_at": NOW - 2}, "stopped (1) 2s ago"),
        ({"status": "stopped", "desired": "running", "exit_code": 1, "ended_at": NOW - 2}, "restarting (1) 2s ago"),
        ({"status": "failed", "desired": "running", "exit_signal": "SIGSEGV"}, "restarting (SIGSEGV)"),
        ({"status": "configured", "created_at": NOW + 99}, "created 0s ago"),
        ({"status": "stopping"}, "stopping"),
        ({}, "unknown"),
    ],
)
def test_a_state_in_words(box, words: str) -> None:
    assert humanize.state(box, NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0s"), (0.4, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (26 * 3600, "26h"), (4 * 86400, "4d")],
)
def test_durations(seconds: float, words: str) -> None:
    assert humanize.duration(seconds) == words


def test_sizes() -> None:
    assert [humanize.size(n) for n in (0, 512, 1536, 12 * 1024**2, 3 * 1024**4)] == [
        "0B", "512B", "1.5KiB", "12MiB", "3.0TiB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ({"status": "stopped", "exit_code": 7}, 7),
        ({"status": "failed", "exit_code": 134, "exit_signal": "SIGABRT"}, 134),
        ({"status": "failed", "exit_signal": "SIGKILL"}, 137),
        ({"status": "failed", "exit_signal": "SIGWHAT"}, 9),
        ({"status": "stopped", "stop_cause": "user"}, 0),
        ({"status": "stopped", "stop_cause": "host_rebooted"}, 9),
        ({"status": "failed"}, 9),
    ],
)
def test_how_a_box_ended_becomes_an_exit_code(box, code: int) -> None:
    assert exit_code_of(box, unknown=9) == code


# ---- options


@pytest.mark.parametrize(
    ("text", "mib"),
    [("512m", 512), ("1g", 1024), ("1.5G", 1536), ("2GiB", 2048), ("4194304", 4), ("4194305", 5), ("5000k", 5)],
)
def test_memory(text: str, mib: int) -> None:
    assert parse.memory_mib(text) == mib


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("/a:/b", {"host_path": "/a", "guest_path": "/b", "read_only": False}),
        ("/a:/b:ro", {"host_path": "/a", "guest_path": "/b", "read_only": True}),
        ("/a/../c:/b:rw", {"host_path": "/c", "guest_path": "/b", "read_only": False}),
    ],
)
def test_volume(text: str, spec) -> None:
    assert parse.volume(text) == spec


def test_environment_takes_a_bare_name_from_around() -> None:
    given_pairs = ["A=1", "B", "C", "D=", "E=x=y"]
    assert parse.environment(given_pairs, {"B": "2"}) == {"A": "1", "B": "2", "D": "", "E": "x=y"}


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("no", {"policy": "no"}),
        ("always", {"policy": "always"}),
        ("on-failure", {"policy": "on-failure"}),
        ("on-failure:3", {"policy": "on-failure", "max_retries": 3}),
    ],
)
def test_restart(text: str, spec) -> None:
    assert parse.restart(text) == spec


@pytest.mark.parametrize(("text", "number"), [("9", 9), ("TERM", 15), ("sigint", 2), ("SIGKILL", 9)])
def test_signals(text: str, number: int) -> None:
    assert parse.signal_number(text) == number


@pytest.mark.parametrize(
    ("text", "moment"),
    [("10m", NOW - 600), ("1h30m", NOW - 5400), ("90", NOW - 90), ("1700000000", 1.7e9),
     ("2025-01-01T00:00:00Z", 1735689600.0)],
)  # fmt: skip
def test_since(text: str, moment: float) -> None:
    assert math.isclose(parse.since(text, NOW), moment)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: parse.memory_mib("lots"), lambda: parse.memory_mib("-5m"), lambda: parse.volume("/a"),
        lambda: parse.volume("/a:b"), lambda: parse.volume("/a:/b:rx"), lambda: parse.volume("/a:/b:ro:x"),
        lambda: parse.environment(["=x"], {}), lambda: parse.labels(["=x"]), lambda: parse.restart("often"),
        lambda: parse.restart("always:3"), lambda: parse.restart("on-failure:"),
        lambda: parse.restart("on-failure:-1"), lambda: parse.signal_number("0"),
        lambda: parse.signal_number("NOPE"), lambda: parse.signal_number("RTMIN"),
        lambda: parse.since("yesterday", 0.0), lambda: parse.seconds("5x"),
    ],
)  # fmt: skip
def test_what_an_option_cannot_mean_is_said(attempt) -> None:
    with pytest.raises(InvalidArgument):
        attempt()


@given(st.text(max_size=30))
def test_no_text_makes_an_option_crash(text: str) -> None:
    parsers = (parse.memory_mib, parse.volume, parse.restart, parse.signal_number, parse.seconds)
    for parser in (*parsers, lambda t: parse.since(t, time.time()), lambda t: parse.labels([t])):
        with contextlib.suppress(InvalidArgument):
            parser(text)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("memory_mib", parse.LEAST_MEMORY_MIB, parse.MOST_MEMORY_MIB), ("cpus", 0.001, parse.MOST_PROCESSORS),
        ("pids", 1, parse.MOST_PIDS),
    ],
)  # fmt: skip
def test_the_limits_of_the_options_are_those_of_the_daemon(name: str, least: float, most: float) -> None:
    for value in (least, most):
        assert getattr(msgspec.convert({name: value}, BoxSpec), name) == value
    for value in (0 if least < 1 else least - 1, most + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({name: value}, BoxSpec)


@pytest.mark.parametrize(("width", "height"), [(20, 5), (60, 12), (200, 40)])
def test_top_fits_the_terminal(width: int, height: int) -> None:
    found = [({"name": f"{'n' * 50}{i}", "box_id": "x" * 16}, {"cpu_percent": 1.0}) for i in range(30)]
    lines = lines_of(found, 0.0, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert ("more" in lines[-1]) == (height < 32)
