"""Promises of boxctl exec, attach and executions without a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.boxctl.programs import SECONDS, WEB, boxctl, program
from tests.unit.fake_daemon import FakeDaemon, problem


@pytest.fixture
def fake(fake: FakeDaemon) -> FakeDaemon:
    fake.add(WEB, "web")
    return fake


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
