"""The WebSocket of a command, against a supervisor in memory: the handshake, and both ways."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from wsproto.events import BytesMessage, TextMessage

from boxlited.api.listeners import listen_tcp, listen_unix
from boxlited.model import ExecSpec
from boxlited.shim.frames import Kind
from tests.unit import attach_harness
from tests.unit.attach_harness import BOX, Socket, attached, connected, heard, nobody_is_connected
from tests.unit.test_api_support import Api, error_of, served

api = attach_harness.api


# ---- the handshake


async def test_without_an_upgrade_the_route_says_what_it_is(api: Api) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "x"})
    reply = await api.client.get(f"{BOX}/executions/exec-1/attach")
    assert "WebSocket" in error_of(reply, 400, "invalid_argument")["message"]


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (f"{BOX}/executions/none/attach", 404, "not_found"),
        ("/v1/boxes/none/executions/exec-1/attach", 404, "not_found"),
        ("/v1/boxes", 404, "not_found"),
        (f"{BOX}/executions/exec-1/attach/", 404, "not_found"),
        (f"{BOX}/executions/exec-1/attach?since=x", 400, "invalid_argument"),
        (f"{BOX}/executions/exec-1/attach?since=-1", 400, "invalid_argument"),
        (f"{BOX}/executions/exec-1/attach?stdin=perhaps", 400, "invalid_argument"),
        ("/v1/boxes/a%00b/executions/exec-1/attach", 400, "invalid_argument"),
    ],
)
async def test_a_refused_upgrade_is_an_error_of_the_contract(api: Api, target: str, status: int, code: str) -> None:
    await api.supervisor.exec("b", ExecSpec(command="x"))
    async with connected(api.path) as client:
        got, error = await client.ask(target)
    assert (got, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "code", "request_id"}


async def test_a_second_attach_is_409_and_free_again_after_the_first(api: Api) -> None:
    async with attached(api), connected(api.path) as second:
        status, error = await second.ask(f"{BOX}/executions/exec-1/attach")
        assert (status, error["code"]) == (409, "already_exists")
    await api.supervisor.detached.wait()
    async with connected(api.path) as third:
        assert (await third.ask(f"{BOX}/executions/exec-1/attach"))[0] == 101


async def test_a_daemon_that_is_not_ready_is_503(api: Api) -> None:
    api.supervisor.is_ready = False
    async with connected(api.path) as client:
        assert (await client.ask(f"{BOX}/executions/exec-1/attach"))[0] == 503


async def test_the_read_only_socket_attaches_nobody(tmp_path: Path) -> None:
    path = tmp_path / "ro.sock"
    async with served(tmp_path, listen_unix(path, read_only=True)) as api, connected(path) as client:
        api.supervisor.put("b")
        await api.supervisor.exec("b", ExecSpec(command="x"))
        status, error = await client.ask(f"{BOX}/executions/exec-1/attach")
        assert (status, error["code"]) == (403, "permission_denied")
        assert ("attach", "exec-1", None) not in api.supervisor.asked


@pytest.mark.parametrize("token", [None, b"Bearer wrong", b"Basic dDp0", b"Bearer right-token-of-20-bytes"])
async def test_a_token_listener_asks_for_the_token(tmp_path: Path, token: bytes | None) -> None:
    file = tmp_path / "token"
    file.write_text("right-token-of-20-bytes\n")
    file.chmod(0o600)
    listener = listen_tcp("127.0.0.1:0", file)
    port = listener.sock.getsockname()[1]
    async with served(tmp_path, listener) as api:
        api.supervisor.put("b")
        await api.supervisor.exec("b", ExecSpec(command="x"))
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            headers = [] if token is None else [(b"authorization", token)]
            status, error = await Socket(stream).ask(f"{BOX}/executions/exec-1/attach", *headers)
            if token == b"Bearer right-token-of-20-bytes":
                assert status == 101
            else:
                assert (status, error["code"]) == (401, "unauthenticated")


# ---- the stream


async def test_output_is_a_channel_byte_and_data_and_the_end_is_text_then_1000(api: Api) -> None:
    async with attached(api, "?since=7") as (client, shim):
        assert ("attach", "exec-1", 7) in api.supervisor.asked
        for frame in ((Kind.STDOUT, b"out"), (Kind.STDERR, b"\xff\0err"), (Kind.NOTICE, b"9 bytes lost")):
            await shim.frames.send(frame)
        await shim.frames.send((Kind.EXIT, b'{"exit_code": 3, "error_message": null}'))
        assert [await client.message() for _ in range(5)] == [
            b"\1out", b"\2\xff\0err", {"type": "error", "message": "9 bytes lost"}, {"type": "exit", "exit_code": 3},
            1000,
        ]  # fmt: skip
    assert shim.position == 3 + 5


async def test_why_it_ended_is_told(api: Api) -> None:
    async with attached(api) as (client, shim):
        await shim.frames.send((Kind.EXIT, b'{"exit_code": 137, "error_message": "killed by SIGKILL"}'))
        assert await client.message() == {"type": "exit", "exit_code": 137, "error_message": "killed by SIGKILL"}
        assert await client.message() == 1000


async def test_a_box_that_ends_is_an_end_of_the_command(api: Api) -> None:
    async with attached(api) as (client, shim):
        shim.frames.close()
        assert await client.message() == {"type": "exit", "exit_code": 137, "error_message": "the box has ended"}
        assert await client.message() == 1000


async def test_input_and_control_reach_the_command_in_their_order(api: Api) -> None:
    async with attached(api) as (client, shim):
        await client.send(BytesMessage(b"one"))
        await client.say(type="resize", cols=100, rows=30)
        await client.say(type="signal", sig=2)
        await client.say(type="signal", signal=15)
        await client.send(BytesMessage(b"\0\xff"))
        await client.say(type="stdin_eof")
        assert await heard(shim, 6) == [
            ("stdin", b"one"), ("resize", 100, 30), ("signal", 2), ("signal", 15), ("stdin", b"\0\xff"), ("eof",),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "JSON"), ("nonsense", "JSON"), ("[]", "object"), ("3", "object"), ("{}", "None"), ("[" * 5000, "JSON"),
        ('{"type": "what"}', "what"), ('{"type": ["resize"]}', "resize"), ('{"type": "signal"}', "signal"),
        ('{"type": "signal", "sig": 9}', "not allowed"), ('{"type": "signal", "sig": "TERM"}', "NUMBER"),
        ('{"type": "signal", "sig": true}', "NUMBER"), ('{"type": "signal", "sig": 1e400}', "signal"),
        ('{"type": "resize"}', "cols"), ('{"type": "resize", "cols": 0, "rows": 1}', "cols"),
        ('{"type": "resize", "cols": 1, "rows": 1, "depth": 1}', "depth"),
    ],
)  # fmt: skip
async def test_a_bad_text_frame_is_answered_and_the_connection_stays(api: Api, text: str, named: str) -> None:
    async with attached(api) as (client, shim):
        await client.send(TextMessage(text))
        answer = await client.message()
        assert isinstance(answer, dict)
        assert answer["type"] == "error"
        assert named in answer["message"] or "JSON" in answer["message"]
        await client.send(BytesMessage(b"still here"))
        assert await heard(shim, 1) == [("stdin", b"still here")]


async def test_stdin_false_takes_no_input(api: Api) -> None:
    async with attached(api, "?stdin=false") as (client, shim):
        await client.send(BytesMessage(b"x"))
        answer = await client.message()
        assert isinstance(answer, dict)
        assert "stdin=false" in answer["message"]
        await client.say(type="signal", sig=2)
        assert await heard(shim, 1) == [("signal", 2)]


async def test_a_client_that_leaves_leaves_the_place_free(api: Api) -> None:
    async with attached(api):
        pass
    await api.supervisor.detached.wait()
    assert not api.supervisor.commands["exec-1"]["attached"]


async def test_output_is_acknowledged_only_once_it_has_left_for_the_client(api: Api) -> None:
    async with attached(api) as (client, shim):
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        piece = bytes(100_000)
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await shim.frames.send((Kind.STDOUT, piece))
                sent += 1
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert shim.position < sent * len(piece), "all was acknowledged, and nothing was read"
        assert shim.position <= 2_000_000
        got = 0
        while got < sent:
            assert await client.message() == b"\1" + piece
            got += 1
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert shim.position == sent * len(piece)


async def test_a_daemon_that_stops_says_1001(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.supervisor.put("b")
        async with attached(api) as (client, _shim):
            api.server.stop()
            assert await client.message() == 1001


async def test_a_client_that_does_not_close_does_not_keep_its_place_for_ever(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends on and on behind the end, and nobody takes it."""
    monkeypatch.setattr("boxlited.api.websockets.LINGER_SECONDS", 0.1)
    async with attached(api) as (client, shim):
        await shim.frames.send((Kind.EXIT, b'{"exit_code": 0}'))
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            while True:
                await client.send(BytesMessage(bytes(1000)))
        await api.supervisor.detached.wait()
    await nobody_is_connected(api)


async def test_a_connection_is_gone_with_its_command(api: Api) -> None:
    """Its pings do not keep it: a thousand short commands would use up all connections."""
    for number in range(1, 4):
        async with attached(api) as (client, shim):
            await shim.frames.send((Kind.EXIT, b'{"exit_code": 0}'))
            assert [await client.message() for _ in range(2)] == [{"type": "exit", "exit_code": 0}, 1000], number
    await nobody_is_connected(api)


async def test_a_message_that_is_too_large_closes_with_1009(api: Api) -> None:
    async with attached(api) as (client, shim):
        await client.send(BytesMessage(bytes(5 * 1024 * 1024)))
        assert await client.message() == 1009
    await api.supervisor.detached.wait()
    assert shim.sent == []


async def test_bytes_that_are_no_frames_end_that_connection_alone(api: Api) -> None:
    async with attached(api) as (client, _shim):
        await client.stream.send_all(b"\xff\xff\xff\xff" * 10)
        assert await client.message() in (1002, 1006)
    await api.supervisor.detached.wait()
    assert (await api.client.get(f"{BOX}/executions")).status_code == 200
