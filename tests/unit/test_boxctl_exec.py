"""Promises of boxctl exec, attach, run -it and executions: real processes behind a small daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxlited.cli.terminal import DetachKeys
from tests.terminal import Terminal
from tests.unit import fake_daemon
from tests.unit.fake_daemon import FakeDaemon, problem

WEB = "webaaaaaaaaaaaaa"
NEW = "baaaaaaaaaaaaaaa"  # the id of the box that is created beside it
SECONDS = 60


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("BOXLITED_SOCKET", str(tmp_path / "d.sock"))
    monkeypatch.delenv("COLUMNS", raising=False)
    with fake_daemon.serving(tmp_path / "d.sock") as daemon:
        daemon.add(WEB, "web")
        yield daemon


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "boxlited.cli.boxctl", *arguments]


def boxctl(*arguments: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Exit code, output, complaints; its standard input is `stdin`, or nothing."""
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(program(*arguments), capture_output=True, check=False, timeout=SECONDS, **source)
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def on_terminal(*arguments: str, cols: int = 80, rows: int = 24) -> Terminal:
    return Terminal(program(*arguments), {}, cols, rows)


# ---- exec


def test_output_errors_and_exit_code_are_those_of_the_command(fake: FakeDaemon) -> None:
    assert boxctl("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert boxctl("exec", "web", "sh", "-c", "kill -9 $$") == (137, b"", b"")
    assert boxctl("exec", "web", "--", "sh", "-c", "echo out") == (0, b"out\n", b"")


def test_without_i_the_command_reads_nothing_and_with_it_what_is_piped(fake: FakeDaemon) -> None:
    assert boxctl("exec", "web", "cat", stdin=b"not for you") == (0, b"", b"")
    assert boxctl("exec", "-i", "web", "cat", stdin=b"hello\n\x10\x11\x03") == (0, b"hello\n\x10\x11\x03", b"")
    large = bytes(range(256)) * 8000
    assert boxctl("exec", "-i", "web", "sh", "-c", "cat; exit 3", stdin=large) == (3, large, b"")


def test_a_command_that_ends_before_its_input_does_not_keep_boxctl(fake: FakeDaemon) -> None:
    reading, writing = os.pipe()  # an input without an end
    try:
        done = subprocess.run(program("exec", "-i", "web", "true"), stdin=reading, check=False, timeout=SECONDS)
        assert done.returncode == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_what_was_asked_is_sent(fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    arguments = ["exec", "-e", "A=1", "-e", "FROM_HERE", "-w", str(tmp_path), "-u", "nobody", "web"]
    code, out, _ = boxctl(*arguments, "sh", "-c", "echo $A $FROM_HERE $1; pwd", "-e", "-i")
    assert (code, out.decode()) == (0, f"1 yes -i\n{tmp_path}\n")
    body = next(request.body for request in fake.requests if request.path.endswith("/exec"))
    assert (body["user"], body["working_dir"], body["tty"]) == ("nobody", str(tmp_path), False)


@pytest.mark.parametrize(("command", "code"), [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_executed_ends_as_a_shell_has_it(fake: FakeDaemon, command: str, code: int) -> None:
    returned, out, err = boxctl("exec", "web", command)
    assert (returned, out) == (code, b"")
    assert f"{command}' cannot be executed in the box".encode() in err


def test_detached_prints_the_id_and_goes_on(fake: FakeDaemon) -> None:
    code, out, _ = boxctl("exec", "-d", "web", "sleep", "987654")
    assert (code, out) == (0, b"e1\n")
    assert not fake.commands.executions["e1"].ended.is_set()


def test_no_such_box_is_3_and_an_id_may_be_its_beginning(fake: FakeDaemon) -> None:
    assert boxctl("exec", "nobody", "true")[0] == 3
    assert boxctl("exec", "webaa", "true")[0] == 0


def test_t_with_i_needs_a_terminal(fake: FakeDaemon) -> None:
    code, _, err = boxctl("exec", "-it", "web", "true", stdin=b"")
    assert code == 2
    assert b"leave out -t" in err
    assert boxctl("run", "-it", "true", stdin=b"")[0] == 2
    assert not [request for request in fake.requests if request.method == "POST"]


def test_output_is_whole_although_the_daemon_went_away(fake: FakeDaemon) -> None:
    fake.commands.cut_after = [10, 100_000]
    code, out, err = boxctl("exec", "web", "seq", "100000")
    assert (code, err) == (0, b"")
    assert out == "".join(f"{number}\n" for number in range(1, 100001)).encode()


def test_piped_input_is_not_lost_unseen(fake: FakeDaemon) -> None:
    fake.commands.cut_after = [1]
    code, _, err = boxctl("exec", "-i", "web", "cat", stdin=b"hello\n")
    assert code == 1
    assert b"boxctl attach web e1" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_signals_reach_the_command(fake: FakeDaemon, number: signal.Signals) -> None:
    script = f"trap 'echo got it; exit 5' {number.name[3:]}; echo up; while :; do sleep 0.01; done"
    with subprocess.Popen(program("exec", "web", "sh", "-c", script), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(number)
        assert child.stdout.read() == b"got it\n"
        assert child.wait(SECONDS) == 5


def test_a_signal_overtakes_input_that_nobody_reads(fake: FakeDaemon) -> None:
    script = "trap 'exit 5' INT; echo up; while :; do sleep 0.01; done"
    with subprocess.Popen(
        program("exec", "-i", "web", "sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"up\n"
        os.set_blocking(child.stdin.fileno(), False)
        with suppress(BlockingIOError):
            while True:
                os.write(child.stdin.fileno(), bytes(65536))
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 5


def test_a_third_ctrl_c_waits_no_longer(fake: FakeDaemon) -> None:
    script = "trap 'echo no' INT; echo up; while :; do sleep 0.01; done"
    with subprocess.Popen(program("exec", "web", "sh", "-c", script), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == b"no\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
    assert not fake.commands.executions["e1"].ended.is_set()


# ---- on a terminal


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


# ---- attach and executions


def test_attach_without_a_name_takes_the_only_one_that_runs(fake: FakeDaemon) -> None:
    boxctl("exec", "web", "true")
    boxctl("exec", "-d", "web", "sh", "-c", "echo hello; cat; exit 6")
    assert boxctl("attach", "web", stdin=b"and bye\n") == (6, b"hello\nand bye\n", b"")


def test_attach_that_only_watches_sends_nothing(fake: FakeDaemon) -> None:
    boxctl("exec", "-d", "web", "sh", "-c", "echo hello; read line || echo nothing")
    code, out, _ = boxctl("attach", "--no-stdin", "web", stdin=b"ignored\n")
    assert (code, out) == (0, b"hello\nnothing\n")


def test_attach_to_one_of_several_lists_them(fake: FakeDaemon) -> None:
    for _ in range(2):
        boxctl("exec", "-d", "web", "sleep", "987654")
    code, out, err = boxctl("attach", "web")
    assert (code, out) == (2, b"")
    assert b"2 commands run in box web" in err
    assert b"boxctl attach web ID" in err
    assert [line.split()[0] for line in err.splitlines()[2:]] == [b"ID", b"e1", b"e2"]
    code, _, err = boxctl("attach", "web", "e9")
    assert (code, b"'e9'" in err, b"e2" in err) == (2, True, True)


def test_attach_where_nothing_runs_says_what_to_do(fake: FakeDaemon) -> None:
    code, _, err = boxctl("attach", "web")
    assert code == 1
    assert b"boxctl exec" in err


def test_attach_to_what_is_attached_says_so(fake: FakeDaemon) -> None:
    boxctl("exec", "-d", "web", "sleep", "987654")
    path = f"/v1/boxes/{WEB}/executions/e1/attach"
    fake.replies["GET", path] = problem(409, "invalid_state", "execution e1 is attached already")
    code, _, err = boxctl("attach", "web")
    assert (code, b"attached already" in err) == (1, True)


def test_executions_are_listed(fake: FakeDaemon) -> None:
    boxctl("exec", "web", "sh", "-c", "exit 3")
    boxctl("exec", "-d", "web", "sleep", "987654")
    _, out, _ = boxctl("executions", "web")
    lines = out.decode().splitlines()
    assert lines[1].split()[:4] == ["e1", "sh", "completed", "3"]
    assert lines[2].split()[:3] == ["e2", "sleep", "running"]
    listed = json.loads(boxctl("executions", "--format", "json", "web")[1])
    assert [one["execution_id"] for one in listed] == ["e1", "e2"]
    assert boxctl("executions", "-q", "web")[1] == b"e1\ne2\n"


# ---- run -it


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


# ---- the detach keys, without I/O


@given(before=st.binary(max_size=20), after=st.binary(max_size=5), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_the_detach_keys_are_found_however_they_are_cut(before: bytes, after: bytes, cuts: list[int]) -> None:
    clean = before.replace(b"\x11", b"x").rstrip(b"\x10")
    typed = clean + b"\x10\x11" + after
    points = [0, *sorted(min(cut, len(typed)) for cut in cuts), len(typed)]
    keys, sent, detached = DetachKeys(), b"", False
    for start, end in pairwise(points):
        piece, detached = keys.feed(typed[start:end])
        sent += piece
        if detached:
            break
    assert (sent, detached) == (clean, True)


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x10\x11", b"")).filter(lambda d: b"\x10\x11" not in d))
def test_other_keys_pass(data: bytes) -> None:
    sent, detached = DetachKeys().feed(data + b"x")
    assert (sent, detached) == (data + b"x", False)


# ---- completion and start


def test_the_shell_completes_boxes_and_running_commands(fake: FakeDaemon) -> None:
    boxctl("exec", "-d", "web", "sleep", "987654")
    for line, words in (
        ("boxctl exec w", {"web", WEB}),
        ("boxctl attach web e", {"e1"}),
        ("boxctl execut", {"executions"}),
    ):
        environment = {
            **os.environ, "_BOXCTL_COMPLETE": "complete_bash", "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }  # fmt: skip
        done = subprocess.run(program(), check=False, capture_output=True, text=True, timeout=SECONDS, env=environment)
        assert set(done.stdout.split()) == words, done.stderr


def test_ps_starts_without_what_only_a_conversation_needs(fake: FakeDaemon) -> None:
    script = (
        "import sys\nfrom boxlited.cli import boxctl\n"
        "try:\n    boxctl.main(['ps'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'wsproto', 'h11', 'anyio', 'rich.live', 'tarfile', 'trio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
