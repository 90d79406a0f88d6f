"""Commands on a terminal: it is theirs, has a size, and Ctrl-C goes through it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.integration.commands import Commands
from tests.integration.daemon_harness import Daemon

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as one:
        yield one.start()


@pytest.fixture(scope="module", params=["sandbox", "process"])
def box(daemon: Daemon, request: pytest.FixtureRequest) -> Commands:
    return Commands(daemon, daemon.run(engine=request.param)["box_id"])


def test_the_size_that_was_asked_for_and_the_changes_to_it(box: Commands) -> None:
    script = "trap 'stty size' WINCH; tty; stty size; echo ready; while :; do sleep 0.02; done"
    execution = box.exec("sh", "-c", script, tty=True, cols=100, rows=33)
    assert box.info(execution)["tty"]
    with box.attach(execution) as stream:
        said = stream.until(b"ready")
        assert b"/dev/pts/" in said
        assert b"33 100" in said
        stream.say(type="resize", cols=120, rows=40)
        stream.until(b"40 120")
        assert box.resize(execution, 66, 22).status == 204
        stream.until(b"22 66")
        stream.say(type="resize", cols=0, rows=40)
        assert stream.next_text()["type"] == "error"
    assert box.delete(execution).status == 204


def test_a_size_is_there_without_being_asked_for_and_a_kind_of_terminal(box: Commands) -> None:
    end = box.run("sh", "-c", "stty size; echo $TERM", tty=True)
    assert end.stdout == b"24 80\r\nxterm\r\n"
    assert end.stderr == b""


def test_ctrl_c_and_ctrl_d_go_through_the_terminal(box: Commands) -> None:
    execution = box.exec("sh", "-c", "trap 'echo INT; exit 4' INT; echo ready; while :; do sleep 0.02; done", tty=True)
    with box.attach(execution) as stream:
        stream.until(b"ready")
        stream.stdin(b"\x03")
        end = stream.end()
    assert b"INT" in end.stdout
    assert end.exit_code == 4
    with box.attach(box.exec("cat", tty=True)) as stream:
        stream.stdin(b"half a line")
        stream.until(b"half a line")
        stream.eof()
        assert stream.end().exit_code == 0


def test_the_terminal_is_its_own_and_it_leads_its_session(box: Commands) -> None:
    text = box.run("sh", "-c", "cut -d' ' -f5-8 /proc/$$/stat; echo $$; ls -l /proc/$$/fd | wc -l", tty=True).stdout
    group, session, number, foreground, pid, *_ = text.split()
    assert group == session == foreground == pid
    assert int(number) > 0


def test_end_of_the_client_is_no_end_of_the_terminal(box: Commands) -> None:
    execution = box.exec("sh", "-c", "echo here; read x; echo got $x", tty=True)
    with box.attach(execution) as stream:
        stream.until(b"here")
    box.until(execution, attached=False)
    with box.attach(execution) as stream:
        stream.stdin(b"it\n")
        end = stream.end()
    assert end.stdout.endswith(b"got it\r\n")


def test_all_of_a_terminals_output_arrives(box: Commands) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo 0000000000000000000000000000$i; i=$((i+1)); done"
    end = box.run("sh", "-c", script, tty=True)
    assert end.stdout == b"".join(b"%028d%d\r\n" % (0, number) for number in range(20000))


def test_a_command_without_a_terminal_cannot_be_resized(box: Commands) -> None:
    execution = box.exec("sleep", "987654")
    refused = box.resize(execution, 80, 24)
    assert (refused.status, refused.error["code"]) == (409, "invalid_state")
    assert box.signal(execution, signal.SIGTERM).status == 204
    box.until(execution, status="killed", exit_code=143)
