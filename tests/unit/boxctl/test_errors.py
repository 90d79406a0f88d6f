"""Promises of boxctl about what goes wrong: one line, a code, and what to do; never a traceback."""

from __future__ import annotations

import pytest

from tests.unit.fake_daemon import FakeDaemon, problem


def test_no_such_box_is_3_and_hints_at_ps(run) -> None:
    result = run("start", "nobody")
    assert result.code == 3
    assert result.err == "boxctl: no box is called 'nobody'\n  hint: `boxctl ps` lists the boxes\n"


@pytest.mark.parametrize("command", [["start"], ["rm", "-f"], ["inspect"], ["wait"], ["kill"]])
def test_several_boxes_of_which_none_is_there_are_3_as_one_is(fake: FakeDaemon, run, command: list[str]) -> None:
    result = run(*command, "nobody", "nowhere")
    assert result.code == 3
    assert "'nobody'" in result.err
    assert "'nowhere'" in result.err


def test_failures_of_several_kinds_are_1(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes/web/start"] = problem(409, "invalid_state", "bad")
    assert run("start", "nobody", "web").code == 1


def test_no_daemon_is_4_and_says_how_to_start_one(run, monkeypatch) -> None:
    monkeypatch.setenv("BOXLITED_SOCKET", "/nonexistent/d.sock")
    for arguments in (["ps"], ["stop", "a", "b"], ["logs", "a"], ["events"], ["events", "--no-follow"]):
        result = run(*arguments)
        assert result.code == 4
        assert result.err == (
            "boxctl: no daemon answers on /nonexistent/d.sock\n"
            "  hint: start it with `make run` or `systemctl start boxlited`, or set BOXLITED_SOCKET\n"
        )


@pytest.mark.parametrize(
    "arguments",
    [["stop"], ["nonsense"], ["ps", "--nonsense"], ["run", "-m", "lots", "true"], ["kill", "-s", "NOPE", "x"],
     ["--url", "ftp://x", "ps"], ["logs", "--since", "yesterday", "x"], ["run", "--cpus", "nan", "true"],
     ["create", "--image", "host", "--rootfs", "/x"]],
)  # fmt: skip
def test_wrong_use_is_2_in_one_line(run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.err.startswith("boxctl: ")
    assert len(result.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("--cpus", "0"), ("--cpus", "-1"), ("--cpus", "4097"), ("--cpus", "nan"), ("--memory", "0"), ("--memory", "1"),
     ("--memory", "3m"), ("--memory", "65t"), ("--pids", "0"), ("--pids", "-1"), ("--pids", "4194305"),
     ("--image", ""), ("--rootfs", ""), ("--restart", "on-failure:9999999999")],
)  # fmt: skip
@pytest.mark.parametrize("command", [["create"], ["run", "-d"]])
def test_a_limit_that_no_box_can_have_is_refused_by_the_name_of_its_option(
    fake: FakeDaemon, run, command: list[str], option: str, value: str
) -> None:
    result = run(*command, option, value, "true")
    assert result.code == 2
    assert result.err.startswith(f"boxctl: {option}")
    assert "$." not in result.err
    assert fake.requests == []


def test_what_the_daemon_says_is_made_harmless(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes/web/start"] = problem(409, "invalid_state", "bad\x1b[2J\nboxctl: fine")
    result = run("start", "web")
    assert result.err.splitlines()[0] == "boxctl: bad\\x1b[2J\\x0aboxctl: fine"


def test_an_error_inside_the_daemon_says_which_request_to_look_for(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes/web/start"] = problem(500, "internal", "oops")
    result = run("start", "web")
    assert result.code == 1
    assert "journalctl -u boxlited` (request req-1)" in result.err


def test_who_came_by_the_socket_for_monitoring_is_told_of_the_other(fake: FakeDaemon, run) -> None:
    fake.replies["POST", "/v1/boxes/web/start"] = problem(
        403, "permission_denied", "this socket is read-only: POST is not allowed here"
    )
    assert "use the one beside it" in run("start", "web").err


def test_a_bug_is_one_line_and_no_traceback(fake: FakeDaemon, run) -> None:
    fake.replies["GET", "/v1/boxes"] = (200, {"boxes": [{"box_id": 5}], "next_page_token": None})
    result = run("ps")
    assert result.code == 1
    assert result.err.startswith("boxctl: a bug in boxctl: ")


def test_no_arguments_show_the_help(run) -> None:
    result = run()
    assert result.code == 2
    assert "Commands:" in result.err
    assert run("--help").code == 0
