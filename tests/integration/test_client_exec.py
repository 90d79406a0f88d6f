"""Promises of both clients about commands that run: real processes, a real WebSocket."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from boxlited import errors
from boxlited.client import AsyncClient, Client, ConnectionLost
from tests.integration import fake_exec
from tests.integration.daemon_harness import until
from tests.unit import client_kinds
from tests.unit.client_kinds import DEADLINE_SECONDS, WEB, Ask, with_a_box
from tests.unit.fake_daemon import FakeDaemon, problem

fake = with_a_box(fake_exec.serving)
client = client_kinds.client
ask = client_kinds.ask


def test_a_command_runs_to_its_end_with_its_input(ask: Ask) -> None:
    done = ask("run_command", "web", ["sh", "-c", "cat; echo problem >&2; exit 7"], input=b"hello\n")
    assert done == (7, b"hello\n", b"problem\n")


def test_without_input_its_stdin_has_ended(ask: Ask) -> None:
    assert ask("run_command", "web", ["cat"]) == (0, b"", b"")


def test_environment_directory_and_timeout_are_passed_on(ask: Ask, fake: FakeDaemon, tmp_path: Path) -> None:
    done = ask("run_command", "web", ["sh", "-c", "echo $A; pwd"], env={"A": "1"}, working_dir=str(tmp_path),
               user="nobody", timeout_seconds=9)  # fmt: skip
    assert done.stdout.decode().split() == ["1", str(tmp_path)]
    assert fake.requests[0].body == {
        "command": "sh", "args": ["-c", "echo $A; pwd"], "env": {"A": "1"}, "working_dir": str(tmp_path),
        "user": "nobody", "tty": False, "timeout_seconds": 9,
    }  # fmt: skip


def test_what_cannot_be_executed_is_an_invalid_argument(ask: Ask) -> None:
    with pytest.raises(errors.InvalidArgument, match="No such file"):
        ask("run_command", "web", ["/no/such/program"])


def test_a_command_that_neither_reads_nor_is_read_does_not_stop_the_client(ask: Ask) -> None:
    """It writes much before it reads much: whoever sends everything first waits for ever."""
    command = ["sh", "-c", "head -c 3000000 /dev/zero; wc -c"]
    done = ask("run_command", "web", command, input=bytes(3_000_000))
    assert done.stdout[:3_000_000] == bytes(3_000_000)
    assert done.stdout[3_000_000:].strip() == b"3000000"


def test_input_for_a_command_that_does_not_want_it_is_no_error(ask: Ask) -> None:
    assert ask("run_command", "web", ["true"], input=bytes(5_000_000)).exit_code == 0


def test_every_byte_arrives_once_although_the_connection_breaks_again_and_again(ask: Ask, fake: FakeDaemon) -> None:
    fake.commands.cut_after = [1, 100_000, 0, 700_001]
    done = ask("run_command", "web", ["sh", "-c", "seq 400000"])
    expected = "".join(f"{number}\n" for number in range(1, 400001)).encode()
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(expected).digest()
    attached = [request.query["since"] for request in fake.requests if request.path.endswith("/attach")]
    assert attached == ["0", "1", "100001", "100001", "800002"]


def test_a_lost_attachment_says_so_when_it_cannot_be_sure_of_the_input(ask: Ask, fake: FakeDaemon) -> None:
    fake.commands.cut_after = [1]
    with pytest.raises(ConnectionLost):
        ask("run_command", "web", ["cat"], input=b"some input")


def test_a_lost_command_is_an_error_and_not_an_end(ask: Ask, fake: FakeDaemon) -> None:
    """The daemon has forgotten it meanwhile."""
    fake.commands.cut_after = [1]
    attached: list[None] = []

    def attach(request: Any) -> Any:
        if attached:
            return problem(404, "not_found", "no execution e1")
        attached.append(None)
        return fake.commands.answer(request, WEB, ["e1", "attach"])

    fake.replies["GET", "/v1/boxes/web/executions/e1/attach"] = attach
    with pytest.raises(errors.NotFound):
        ask("run_command", "web", ["echo", "hello"])


def test_a_refused_attachment_is_the_daemons_error(ask: Ask, fake: FakeDaemon) -> None:
    with pytest.raises(errors.NotFound, match="no execution e9"):
        ask("attach", "web", "e9")
    fake.replies["GET", "/v1/boxes/web/executions/e9/attach"] = problem(409, "invalid_state", "somebody is attached")
    with pytest.raises(errors.InvalidState, match="somebody"):
        ask("attach", "web", "e9")


def test_executions_are_listed_signalled_resized_and_killed(ask: Ask, fake: FakeDaemon) -> None:
    started = ask("exec", "web", "sleep", "987654")
    (listed,) = ask("executions", "web")
    assert (listed["execution_id"], listed["status"]) == (started["execution_id"], "running")
    with pytest.raises(errors.InvalidState):
        ask("resize_execution", "web", started["execution_id"], 100, 40)
    ask("signal_execution", "web", started["execution_id"], signal.SIGTERM)
    fake.commands.executions[started["execution_id"]].ended.wait(DEADLINE_SECONDS)
    assert ask("execution", "web", started["execution_id"])["exit_code"] == 128 + signal.SIGTERM
    another = ask("exec", "web", "sleep", "987654")["execution_id"]
    ask("kill_execution", "web", another)
    with pytest.raises(errors.NotFound):
        ask("execution", "web", another)


# ---- an open attachment


def test_a_conversation_with_a_command_on_a_terminal(client: Client) -> None:
    started = client.exec("web", "sh", tty=True, cols=70, rows=20)
    with client.attach("web", started["execution_id"], 0) as attachment:
        shown = iter(attachment)
        attachment.send(b"stty size\n")
        _read_until(shown, b"20 70")
        attachment.resize(101, 43)
        attachment.send(b"stty size\n")
        _read_until(shown, b"43 101")
        attachment.send(b"exit 3\n")
        for _ in shown:
            pass
        assert attachment.exit_code == 3


def _read_until(outputs: Iterator[Any], wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += next(outputs).data


async def _converse(fake: FakeDaemon) -> int | None:
    with anyio.fail_after(DEADLINE_SECONDS):
        async with AsyncClient(fake.socket) as client:
            started = await client.exec("web", "sh", tty=True, cols=70, rows=20)
            async with await client.attach("web", started["execution_id"], 0) as attachment:
                for send, wanted in (((), b"20 70"), ((101, 43), b"43 101")):
                    if send:
                        await attachment.resize(*send)
                    await attachment.send(b"stty size\n")
                    seen = b""
                    while wanted not in seen:
                        seen += (await anext(attachment)).data
                await attachment.send(b"sleep 987654\n")
                await attachment.signal(signal.SIGHUP)
                async for _ in attachment:
                    pass
                return attachment.exit_code


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_conversation_of_the_asynchronous_client(fake: FakeDaemon, backend: str) -> None:
    assert anyio.run(_converse, fake, backend=backend) == 128 + signal.SIGHUP


def test_signal_and_eof_of_an_attachment_reach_the_command(client: Client) -> None:
    started = client.exec(
        "web", "sh", "-c", "trap 'exit 5' USR1; echo up; cat; echo over; while :; do sleep 0.01; done"
    )
    with client.attach("web", started["execution_id"]) as attachment:
        shown = iter(attachment)
        _read_until(shown, b"up")
        attachment.send_eof()
        _read_until(shown, b"over")
        attachment.signal(signal.SIGUSR1)
        assert [output for output in shown if output.channel == 1] == []
        assert attachment.exit_code == 5


def test_an_error_that_ends_nothing_is_a_notice(client: Client) -> None:
    started = client.exec("web", "sh", "-c", "echo up; cat")
    with client.attach("web", started["execution_id"]) as attachment:
        shown = iter(attachment)
        _read_until(shown, b"up")
        attachment.resize(10, 10)
        attachment.send(b"on\n")
        _read_until(shown, b"on")
        assert attachment.notices == ["it has no terminal"]


def test_a_ping_is_answered(ask: Ask, fake: FakeDaemon) -> None:
    ask("run_command", "web", ["sh", "-c", "echo up; sleep 0.1; echo over"])
    assert fake.commands.executions["e1"].pongs == 1


def test_the_end_of_the_input_is_told_again_when_it_was_lost(client: Client, fake: FakeDaemon) -> None:
    execution_id = client.exec("web", "sh", "-c", "echo up; cat")["execution_id"]
    with client.attach("web", execution_id, 0, reconnect=True) as attachment:
        outputs = iter(attachment)
        assert next(outputs) == (1, b"up\n")
        fake.commands.executions[execution_id].cut()
        with pytest.raises(ConnectionLost):
            attachment.send_eof()
        assert list(outputs) == []
        assert attachment.exit_code == 0


def test_a_daemon_that_still_counts_us_as_attached_is_waited_for(ask: Ask, fake: FakeDaemon) -> None:
    fake.commands.cut_after = [2]
    answers = [None, problem(409, "invalid_state", "somebody is attached"), problem(409, "already_exists", "still")]

    def attach(request: Any) -> Any:
        scripted = answers.pop(0) if answers else None
        return scripted or fake.commands.answer(request, WEB, ["e1", "attach"])

    fake.replies["GET", "/v1/boxes/web/executions/e1/attach"] = attach
    assert ask("run_command", "web", ["echo", "hello"]).stdout == b"hello\n"
    assert answers == []


def wait_detached(fake: FakeDaemon, execution_id: str) -> None:
    until(lambda: not fake.commands.executions[execution_id].attached, "the attachment before is over")


def test_a_later_attachment_goes_on_where_the_last_one_ended(client: Client, fake: FakeDaemon) -> None:
    execution_id = client.exec("web", "sh", "-c", "echo one; read line; echo two")["execution_id"]
    with client.attach("web", execution_id) as attachment:
        assert next(iter(attachment)) == (1, b"one\n")
    wait_detached(fake, execution_id)
    with client.attach("web", execution_id) as attachment:
        attachment.send(b"\n")
        assert list(attachment) == [(1, b"two\n")]
    wait_detached(fake, execution_id)
    with client.attach("web", execution_id, 4) as attachment:
        assert list(attachment) == [(1, b"two\n")]


def test_closing_from_another_thread_ends_the_iteration(client: Client) -> None:
    execution_id = client.exec("web", "sh", "-c", "echo up; exec sleep 987654")["execution_id"]
    attachment = client.attach("web", execution_id)
    shown = iter(attachment)
    assert next(shown) == (1, b"up\n")
    closer = threading.Thread(target=attachment.close)
    closer.start()
    assert list(shown) == []
    closer.join()
    assert attachment.exit_code is None
    with pytest.raises(ConnectionLost):
        attachment.send(b"too late")
