"""Commands through the API against a supervisor in memory: bodies, refusals, and the WebSocket both ways."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from boxlited.api.listeners import listen_tcp, listen_unix
from boxlited.model import ExecSpec
from boxlited.shim.frames import Kind
from tests.unit.test_api_support import Api, MemoryAttachment, error_of, served

ALLOWED = [1, 2, 3, 6, 10, 12, 15, 28]
BOX = "/v1/boxes/b"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        api.supervisor.put("b")
        yield api


class Socket:
    """A WebSocket client over any stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._waiting: list[Event] = []

    async def ask(self, target: str, *headers: tuple[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        """The status of the handshake, and the error where it is one."""
        request = Request(host="x", target=target, extra_headers=list(headers))
        await self.stream.send_all(self.ws.send(request))
        status, body = 0, b""
        while True:
            match await self.event():
                case AcceptConnection():
                    return 101, {}
                case RejectConnection() as event:
                    status = event.status_code
                case RejectData() as event:
                    body += event.data
                    if event.body_finished:
                        return status, json.loads(body)["error"]

    async def event(self) -> Event:
        while not self._waiting:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self.ws.receive_data(data or None)
            self._waiting += self.ws.events()
        return self._waiting.pop(0)

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.ws.send(event))

    async def say(self, **frame: Any) -> None:
        await self.send(TextMessage(json.dumps(frame)))

    async def message(self) -> bytes | dict[str, Any] | int:
        """A binary message, the object of a text message, or the code of the Close (which is answered)."""
        data, text = b"", ""
        while True:
            match await self.event():
                case BytesMessage() as event:
                    data += event.data
                    if event.message_finished:
                        return data
                case TextMessage() as event:
                    text += event.data
                    if event.message_finished:
                        return dict(json.loads(text))
                case CloseConnection() as event:
                    if event.code != 1006:
                        await self.send(event.response())
                    return int(event.code)


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Socket]:
    stream = await trio.open_unix_socket(path)
    async with stream:
        yield Socket(stream)


@asynccontextmanager
async def attached(api: Api, query: str = "") -> AsyncIterator[tuple[Socket, MemoryAttachment]]:
    execution = await api.supervisor.exec("b", ExecSpec(command="x"))
    name = execution["execution_id"]
    shim = api.supervisor.attachments.setdefault(name, MemoryAttachment())
    async with connected(api.path) as client:
        assert await client.ask(f"{BOX}/executions/{name}/attach{query}") == (101, {})
        yield client, shim


async def heard(shim: MemoryAttachment, count: int) -> list[tuple[Any, ...]]:
    while len(shim.sent) < count:
        await shim.heard.wait()
    return shim.sent


async def nobody_is_connected(api: Api) -> None:
    """A connection that hangs stays there."""
    for _ in range(500):
        if not api.server._streams:
            return
        await trio.sleep(0.01)
    raise AssertionError(f"{len(api.server._streams)} connections are left")


# ---- exec


async def test_exec_is_201_with_the_id_and_where_it_is(api: Api) -> None:
    body = {
        "command": "sh", "args": ["-c", "x"], "env": {"A": "b"}, "timeout_seconds": 1.5, "working_dir": "/w",
        "user": "0", "tty": True, "cols": 100, "rows": 30,
    }  # fmt: skip
    reply = await api.client.post(f"{BOX}/exec", json=body, headers={"idempotency-key": "k"})
    assert (reply.status_code, reply.json()) == (201, {"execution_id": "exec-1"})
    assert reply.headers["location"] == f"/v1/boxes/{api.supervisor.get('b').box_id}/executions/exec-1"
    (_, spec, key) = api.supervisor.asked[-1]
    assert key == "k"
    assert spec == ExecSpec(
        command="sh", args=("-c", "x"), env={"A": "b"}, timeout_seconds=1.5, working_dir="/w", user="0", tty=True,
        cols=100, rows=30,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": 3}, "command"),
        ({"command": "x", "args": "a b"}, "args"),
        ({"command": "x", "args": [1]}, "args"),
        ({"command": "x", "env": {"A": 1}}, "env"),
        ({"command": "x", "env": {"A=B": "c"}}, "env"),
        ({"command": "x", "env": {"": "c"}}, "env"),
        ({"command": "x", "timeout_seconds": 0}, "timeout_seconds"),
        ({"command": "x", "timeout_seconds": -1}, "timeout_seconds"),
        ({"command": "x", "working_dir": ""}, "working_dir"),
        ({"command": "x", "cols": 0}, "cols"),
        ({"command": "x", "rows": 65536}, "rows"),
        ({"command": "x", "tty": "yes"}, "tty"),
        ({"command": "x", "comand": "y"}, "comand"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "x", "args": ["a\0"]}, "NUL"),
        ({"command": "x", "env": {"A\0": "b"}}, "NUL"),
        ({"command": "x", "env": {"A": "\0"}}, "NUL"),
        ({"command": "x", "working_dir": "/\0"}, "NUL"),
        ({"command": "x", "user": "\0"}, "NUL"),
        ([], "object"),
    ],
)
async def test_exec_refuses_what_makes_no_sense_by_name(api: Api, body: Any, named: str) -> None:
    reply = await api.client.post(f"{BOX}/exec", json=body)
    assert named in error_of(reply, 400, "invalid_argument")["message"]
    assert api.supervisor.commands == {}


async def test_a_bad_key_is_refused(api: Api) -> None:
    reply = await api.client.post(f"{BOX}/exec", json={"command": "x"}, headers={"idempotency-key": "a b"})
    error_of(reply, 400, "invalid_argument")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/boxes/none/exec"), ("GET", "/v1/boxes/none/executions"), ("GET", f"{BOX}/executions/none"),
        ("DELETE", f"{BOX}/executions/none"), ("POST", f"{BOX}/executions/none/signal"),
        ("POST", f"{BOX}/executions/none/resize"), ("GET", f"{BOX}/executions/none/attach"),
        ("GET", f"{BOX}/executions/{'x' * 65}"), ("GET", f"{BOX}/executions/a%0ab"), ("GET", f"{BOX}/executions/a.b"),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_404(api: Api, method: str, path: str) -> None:
    body = {"exec": {"command": "x"}, "signal": {"signal": 15}, "resize": {"cols": 1, "rows": 1}}.get(
        path.rsplit("/", maxsplit=1)[-1]
    )
    error_of(await api.client.request(method, path, json=body), 404, "not_found")


async def test_executions_are_shown_as_the_contract_has_them(api: Api) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "sleep"})
    expected = {
        "execution_id": "exec-1", "command": "sleep", "status": "running", "attached": False, "tty": False,
        "exit_code": None, "started_at": "2023-11-14T22:13:20.500000Z", "duration_ms": None, "error_message": None,
    }  # fmt: skip
    assert (await api.client.get(f"{BOX}/executions")).json() == [expected]
    assert (await api.client.get(f"{BOX}/executions/exec-1")).json() == expected


@pytest.mark.parametrize("number", [*range(-1, 40), 2**40])
async def test_signals_of_the_list_and_no_other(api: Api, number: int) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "x"})
    reply = await api.client.post(f"{BOX}/executions/exec-1/signal", json={"signal": number})
    if number in ALLOWED:
        assert (reply.status_code, reply.content) == (204, b"")
        assert api.supervisor.asked[-1] == ("signal", "exec-1", number)
    else:
        assert "15 (SIGTERM)" in error_of(reply, 400, "invalid_argument")["message"]
        assert api.supervisor.asked[-1][0] == "exec"


async def test_resize_and_delete(api: Api) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "x"})
    reply = await api.client.post(f"{BOX}/executions/exec-1/resize", json={"cols": 80, "rows": 24})
    assert reply.status_code == 204
    assert api.supervisor.asked[-1] == ("resize", "exec-1", 80, 24)
    for body in ({"cols": 0, "rows": 1}, {"cols": 1}, {"cols": 1, "rows": 65536}, {"cols": 1.5, "rows": 1}):
        error_of(await api.client.post(f"{BOX}/executions/exec-1/resize", json=body), 400, "invalid_argument")
    assert (await api.client.delete(f"{BOX}/executions/exec-1")).status_code == 204
    error_of(await api.client.delete(f"{BOX}/executions/exec-1"), 404, "not_found")


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
