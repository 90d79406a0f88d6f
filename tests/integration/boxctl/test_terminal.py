"""Promises of boxctl exec -it and run -it on a terminal of the test's own, and of run -i without one."""

from __future__ import annotations

import os
import signal

import pytest

from tests.integration.boxctl.programs import WEB, boxctl, on_terminal
from tests.unit.fake_daemon import FakeDaemon, problem

NEW = "baaaaaaaaaaaaaaa"  # the id of the box that is created beside it


@pytest.fixture
def fake(fake: FakeDaemon) -> FakeDaemon:
    fake.add(WEB, "web")
    return fake


# ---- exec and attach


def test_a_conversation_on_a_terminal(fake: FakeDaemon) -> None:
    with on_terminal("exec", "-it", "web", "sh", cols=70, rows=20) as terminal:
        terminal.type(b"stty size; echo $TERM\n")
        terminal.expect(b"20 70")
        terminal.expect(b"xterm")
        assert terminal.is_raw()
        terminal.resize(101, 43)
        terminal.until(lambda: any(call[1].endswith("/resize") for call in fake.calls()), "the size is told")
        terminal.type(b"stty size\n")
        terminal.expect(b"43 101")
        terminal.type(b"trap 'echo caught it' INT; echo r$((1))ady; cat\n")
        terminal.expect(b"r1ady")
        terminal.type(b"to cat\n")
        terminal.expect(b"to cat")  # as it is typed
        terminal.expect(b"to cat")  # by cat
        terminal.type(b"\x03")
        terminal.expect(b"caught it")
        terminal.type(b"exit 7\n")
        assert terminal.wait() == 7
        assert terminal.is_as_before()


def test_ctrl_c_does_not_end_boxctl_but_the_command(fake: FakeDaemon) -> None:
    with on_terminal("exec", "-it", "web", "sh", "-c", "echo up; exec sleep 987654") as terminal:
        terminal.expect(b"up")
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert terminal.is_as_before()


def test_the_detach_keys_leave_the_command_and_attach_returns_to_it(fake: FakeDaemon) -> None:
    with on_terminal("exec", "-it", "web", "sh") as terminal:
        terminal.type(b"echo $((6*7))\n")
        terminal.expect(b"42")
        terminal.type(b"\x10\x11")
        assert terminal.wait() == 0
        terminal.expect(b"boxctl attach web e1")
        assert terminal.is_as_before()
    execution = fake.commands.executions["e1"]
    with on_terminal("attach", "web", cols=33, rows=11) as terminal:
        terminal.until(lambda: execution.attached, "it is attached")
        terminal.type(b"stty size; exit 4\n")
        terminal.expect(b"11 33")
        assert terminal.wait() == 4
        assert terminal.is_as_before()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_boxctl_that_is_ended_leaves_the_terminal_as_it_was(fake: FakeDaemon, number: int, code: int) -> None:
    with on_terminal("exec", "-it", "web", "sh", "-c", "echo up; exec sleep 987654") as terminal:
        terminal.expect(b"up")
        assert terminal.is_raw()
        terminal.signal(number)
        assert terminal.wait() == code
        assert terminal.is_as_before()
    assert not fake.commands.executions["e1"].ended.is_set()


def test_a_lost_daemon_leaves_the_terminal_as_it_was(fake: FakeDaemon) -> None:
    with on_terminal("exec", "-it", "web", "sh", "-c", "echo up; exec sleep 987654") as terminal:
        terminal.expect(b"up")
        fake.replies["GET", f"/v1/boxes/{WEB}/executions/e1/attach"] = problem(404, "not_found", "no execution e1")
        execution = fake.commands.executions["e1"]
        execution.cut()
        assert terminal.wait() == 3
        terminal.expect(b"no execution e1")
        assert terminal.is_as_before()


def test_who_waits_for_a_lost_daemon_can_leave(fake: FakeDaemon) -> None:
    with on_terminal("exec", "-it", "web", "sh", "-c", "echo up; exec sleep 987654") as terminal:
        terminal.expect(b"up")
        fake.replies["GET", f"/v1/boxes/{WEB}/executions/e1/attach"] = problem(503, "engine_unavailable", "it stops")
        fake.commands.executions["e1"].cut()
        terminal.until(lambda: fake.requests[-1].query == {"since": "4"}, "boxctl tries to attach again")
        terminal.type(b"\x10\x11")
        assert terminal.wait() == 0
        assert terminal.is_as_before()


def test_keys_that_are_typed_while_the_daemon_is_away_arrive_when_it_is_back(fake: FakeDaemon) -> None:
    path = f"/v1/boxes/{WEB}/executions/e1/attach"
    with on_terminal("exec", "-it", "web", "sh", "-c", "echo up; read line; echo got $line") as terminal:
        terminal.expect(b"up")
        fake.replies["GET", path] = problem(503, "engine_unavailable", "it stops")
        fake.commands.executions["e1"].cut()
        terminal.until(lambda: fake.requests[-1].query == {"since": "4"}, "boxctl tries to attach again")
        terminal.type(b"hello\n")
        tries = len(fake.requests)
        terminal.until(lambda: len(fake.requests) > tries, "the keys wait for another try")
        del fake.replies["GET", path]
        terminal.expect(b"got hello")
        assert terminal.wait() == 0


def test_job_control_gives_the_terminal_back_and_takes_it_again(fake: FakeDaemon) -> None:
    with on_terminal("exec", "-it", "web", "sh") as terminal:
        terminal.type(b"echo $((6*7))\n")
        terminal.expect(b"42")
        terminal.signal(signal.SIGTSTP)
        terminal.until(terminal.is_stopped, "it is stopped")
        assert terminal.is_as_before()
        terminal.resize(44, 22)
        terminal.signal(signal.SIGCONT)
        terminal.until(terminal.is_raw, "the terminal is raw again")
        terminal.until(lambda: any(call[1].endswith("/resize") for call in fake.calls()), "the size is told")
        terminal.type(b"stty size; exit\n")
        terminal.expect(b"22 44")
        assert terminal.wait() == 0


def test_without_a_terminal_inside_output_is_made_harmless_to_the_one_outside(fake: FakeDaemon) -> None:
    with on_terminal("exec", "web", "printf", "\\033[2Jx\\033[31mred\\033[0m\\n") as terminal:
        assert terminal.wait() == 0
        assert b"\x1b[2J" not in terminal.shown
        assert b"\x1b[31mred" in terminal.shown


# ---- run


def test_run_it_rm_feels_like_a_shell_and_leaves_no_box(fake: FakeDaemon) -> None:
    with on_terminal("run", "-it", "--rm", "--name", "mine", "-e", "A=1", "--", "sh", cols=61, rows=17) as terminal:
        terminal.type(b"stty size; echo $A\n")
        terminal.expect(b"17 61")
        terminal.expect(b"1")
        terminal.type(b"sh -c 'echo r$((1))ady; exec sleep 987654'\n")
        terminal.expect(b"r1ady")
        terminal.type(b"\x03")
        terminal.expect(b"# " if os.geteuid() == 0 else b"$ ")  # what is typed before the ^C is done would go with it
        terminal.type(b"exit 9\n")
        assert terminal.wait() == 9
        assert terminal.is_as_before()
    assert list(fake.boxes) == [WEB]
    created = next(request.body for request in fake.requests if request.path == "/v1/boxes")
    assert created == {"name": "mine", "env": {"A": "1"}, "image": "host", "labels": {"boxlited.command": "sh"}}


def test_run_i_without_rm_stops_the_box_and_keeps_it(fake: FakeDaemon) -> None:
    assert boxctl("run", "-i", "cat", stdin=b"hello\n") == (0, b"hello\n", b"")
    assert fake.boxes[NEW]["status"] == "stopped"


@pytest.mark.parametrize(("command", "code"), [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_run_i_of_what_cannot_be_executed_leaves_no_box(fake: FakeDaemon, command: str, code: int) -> None:
    assert boxctl("run", "-i", "--rm", command)[0] == code
    assert list(fake.boxes) == [WEB]


def test_run_i_that_the_daemon_refuses_is_125(fake: FakeDaemon) -> None:
    fake.replies["POST", f"/v1/boxes/{NEW}/exec"] = problem(422, "unsupported", "this engine has no exec")
    code, _, err = boxctl("run", "-i", "--rm", "true")
    assert (code, b"no exec" in err) == (125, True)
    assert list(fake.boxes) == [WEB]
    fake.replies["POST", "/v1/boxes"] = problem(422, "unsupported", "no such engine")
    assert boxctl("run", "-i", "true")[0] == 125


def test_a_run_it_that_is_ended_leaves_no_box(fake: FakeDaemon) -> None:
    with on_terminal("run", "-it", "--rm", "sh", "-c", "echo up; exec sleep 987654") as terminal:
        terminal.expect(b"up")
        terminal.signal(signal.SIGHUP)
        assert terminal.wait() == 129
        assert terminal.is_as_before()
    assert list(fake.boxes) == [WEB]


def test_a_run_it_that_is_left_by_the_detach_keys_leaves_its_box(fake: FakeDaemon) -> None:
    with on_terminal("run", "-it", "--rm", "--name", "mine", "sh") as terminal:
        terminal.type(b"echo $((6*7))\n")
        terminal.expect(b"42")
        terminal.type(b"\x10")
        terminal.type(b"\x11")
        assert terminal.wait() == 0
        terminal.expect(b"boxctl attach mine")
    assert fake.boxes[NEW]["status"] == "running"


def test_run_d_and_it_exclude_each_other(fake: FakeDaemon) -> None:
    code, _, err = boxctl("run", "-dit", "true")
    assert (code, b"exclude each other" in err) == (2, True)
