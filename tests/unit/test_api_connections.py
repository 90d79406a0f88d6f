"""Connections and listeners: hostile bytes, bodies, sockets, tokens, peers."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import h11
import pytest
import trio

from boxlited.api import bodies
from boxlited.api.listeners import (
    Listener,
    inherited,
    listen_tcp,
    listen_unix,
    read_only_path,
    read_token,
)
from boxlited.api.principal import Principal, SocketRights, unix_principal
from boxlited.errors import ConfigError, StartupError
from tests.unit.test_api_support import Api, Wire, error_of, served

MIB = 1024 * 1024


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        yield api


async def error_on(wire: Wire, status: int, code: str) -> str:
    head = await wire.head()
    error = json.loads(await wire.rest())["error"]
    assert (head.status_code, error["code"]) == (status, code)
    assert error["request_id"] == dict(head.headers)[b"x-request-id"].decode()
    return str(error["message"])


async def assert_closed(wire: Wire) -> None:
    try:
        while await wire.stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass


# ---- bodies


async def test_a_body_of_one_mebibyte_is_read_and_a_larger_one_refused(api: Api) -> None:
    body = b'{"name": "web"' + b" " * (MIB - 15) + b"}"
    assert (await api.client.post("/v1/boxes", content=body)).status_code == 201
    error_of(await api.client.post("/v1/boxes", content=body + b" "), 400, "invalid_argument")
    assert (await api.client.get("/v1/boxes/web")).status_code == 200


async def test_a_promised_large_body_is_refused_before_it_is_sent(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        request = h11.Request(method="POST", target="/v1/boxes", headers=[("host", "x"), ("content-length", "9" * 12)])
        await wire.stream.send_all(wire.http.send(request))
        assert "larger than 1048576" in await error_on(wire, 400, "invalid_argument")


async def test_many_tiny_chunks_beyond_the_limit_do_not_wedge_the_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 10)
    async with Wire.open(api.path) as wire:
        request = h11.Request(
            method="POST", target="/v1/boxes", headers=[("host", "x"), ("transfer-encoding", "chunked")]
        )
        await wire.stream.send_all(wire.http.send(request) + b"1\r\nx\r\n" * 500)
        await error_on(wire, 400, "invalid_argument")
        await wire.stream.send_eof()
        await assert_closed(wire)
    assert (await api.client.get("/healthz")).status_code == 200


async def test_a_body_that_does_not_come_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.01)
    monkeypatch.setattr(bodies, "LINGER_SECONDS", 0.01)
    async with Wire.open(api.path) as wire:
        request = h11.Request(method="POST", target="/v1/boxes", headers=[("host", "x"), ("content-length", "5")])
        await wire.stream.send_all(wire.http.send(request))
        assert "not complete" in await error_on(wire, 400, "invalid_argument")
        await assert_closed(wire)


# ---- bytes that are no proper request


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /v1/boxes HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET /v1/boxes HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_in_the_usual_shape_and_closed(api: Api, junk: bytes) -> None:
    async with Wire.open(api.path) as wire:
        wire.http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        with suppress(trio.BrokenResourceError):  # it need not read all of it
            await wire.stream.send_all(junk)
        await error_on(wire, 400, "invalid_argument")
        await assert_closed(wire)
    assert (await api.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("sec-websocket-version", "13")],
        [("sec-websocket-version", "99"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")],
        [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")],
    ],
)
async def test_a_handshake_that_is_none_is_answered_in_the_usual_shape(
    api: Api, headers: list[tuple[str, str]]
) -> None:
    async with Wire.open(api.path) as wire:
        target = "/v1/boxes/b/executions/exec-1/attach"
        upgrade = [("host", "x"), ("connection", "upgrade"), ("upgrade", "websocket"), *headers]
        await wire.stream.send_all(wire.http.send(h11.Request(method="GET", target=target, headers=upgrade)))
        assert "WebSocket" in await error_on(wire, 400, "invalid_argument")
        await assert_closed(wire)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/v1/boxes/web", 200),
        ("HTTPS://localhost:8000/v1/boxes/web?x=http://y/", 200),
        ("http://127.0.0.1/v1/boxes/none", 404),
        ("http://localhost", 404),
        ("http://localhost?/v1/boxes/web", 404),
        ("http://user@localhost/v1/boxes/web", 404),
        ("ftp://localhost/v1/boxes/web", 404),
        ("http:///v1/boxes/web", 404),
    ],
)
async def test_a_target_that_is_a_whole_url_is_taken_for_its_path(api: Api, target: str, status: int) -> None:
    api.supervisor.put("web")
    async with Wire.open(api.path) as wire:
        assert (await wire.ask("GET", target)).status_code == status


async def test_the_authority_of_a_whole_url_counts_and_not_the_host_beside_it(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        assert (await wire.ask("GET", "http://evil.example/v1/boxes")).status_code == 403
    request = b"GET http://localhost/v1/boxes HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    async with Wire.open(api.path) as wire:
        wire.http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        await wire.stream.send_all(request)
        assert (await wire.head()).status_code == 200


async def test_an_upgrade_to_http2_is_ignored(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        head = await wire.ask(
            "GET", "/healthz", ("connection", "upgrade"), ("upgrade", "h2c"), ("http2-settings", "AA")
        )
        assert (head.status_code, await wire.rest()) == (200, b'{"status":"ok"}')


async def test_requests_that_are_sent_together_are_answered_in_order(api: Api) -> None:
    api.supervisor.put("web")
    async with Wire.open(api.path) as wire:
        await wire.stream.send_all(
            b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/boxes/web HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        text = b""
        while b'"web"' not in text:
            text += await wire.stream.receive_some(65536)
        assert text.index(b'"ok"') < text.index(b'"web"')


async def test_a_connection_serves_more_requests_than_the_web_server_would_by_default(api: Api) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    async with Wire.open(api.path) as wire:
        for _ in range(1100):
            await wire.stream.send_all(request)
            reply = b""
            while not reply.endswith(b'{"status":"ok"}'):
                reply += await wire.stream.receive_some(65536)
            assert b"close" not in reply


# ---- unix sockets


def test_a_socket_is_for_its_owner_and_group_only(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "deep" / "b.sock")
    try:
        mode = (tmp_path / "deep" / "b.sock").stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
        assert os.listdir(tmp_path / "deep") == ["b.sock"]
    finally:
        listener.close()
    assert os.listdir(tmp_path / "deep") == []


def test_a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "b.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first = listen_unix(path)
    with pytest.raises(StartupError, match="another process listens"):
        listen_unix(path)
    first.close()
    path.write_text("mine")
    with pytest.raises(StartupError, match="not a socket"):
        listen_unix(path)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["b.sock"]


def test_closing_leaves_the_socket_of_a_successor_alone(tmp_path: Path) -> None:
    path = tmp_path / "b.sock"
    first = listen_unix(path)
    path.unlink()
    second = listen_unix(path)
    first.close()
    assert path.exists()
    second.close()
    second.close()


@pytest.mark.parametrize("name", ["x" * 200, "missing\0"])
def test_a_path_that_cannot_be_bound_is_a_startup_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartupError):
        listen_unix(tmp_path / name)


def test_the_read_only_socket_lies_beside_the_other() -> None:
    assert read_only_path(Path("/run/boxlited/boxlited.sock")) == Path("/run/boxlited/boxlited-ro.sock")


def peer(uid: int, gid: int = 100, *groups: int) -> Principal:
    return Principal("unix_user", False, uid=uid, gid=gid, pid=1, groups=frozenset(groups))


@pytest.mark.parametrize(
    ("rights", "who", "admitted"),
    [
        (SocketRights(5, 7), peer(0), True),
        (SocketRights(5, 7), peer(5), True),
        (SocketRights(5, 7), peer(6, 7), True),
        (SocketRights(5, 7), peer(6, 100, 7, 8), True),
        (SocketRights(5, 7), peer(6), False),
        (SocketRights(5, None), peer(6, 7), False),
        (SocketRights(5, None, everyone=True), peer(6), True),
    ],
)
def test_who_may_use_a_socket(rights: SocketRights, who: Principal, admitted: bool) -> None:
    assert rights.admit(who) is admitted


def test_the_kernel_names_the_peer() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        who = unix_principal(ours, read_only=True)
    assert (who.uid, who.gid, who.pid, who.read_only) == (os.getuid(), os.getgid(), os.getpid(), True)
    assert who.groups == frozenset(os.getgroups())


async def test_a_peer_without_rights_is_refused_on_every_route(tmp_path: Path) -> None:
    strict = listen_unix(tmp_path / "strict.sock")
    nobody = Listener(strict.sock, strict.address, rights=None, path=strict.path, inode=strict.inode)
    async with served(tmp_path, nobody), Wire.open(tmp_path / "strict.sock") as wire:
        head = await wire.ask("GET", "/v1/me")
        assert head.status_code == 403
        assert b"permission_denied" in await wire.rest()


# ---- sockets of the service manager


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "3"}, {"LISTEN_FDS": "3"}])
def test_sockets_that_are_for_another_process_are_not_taken(environ: dict[str, str]) -> None:
    assert inherited(environ) == []
    assert inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) == []


# ---- tokens and TCP


@pytest.mark.parametrize(
    ("content", "mode"), [("short", 0o600), ("x" * 20, 0o640), ("x" * 20, 0o604), ("two words of it ok", 0o600)]
)
def test_a_weak_or_exposed_token_is_refused(tmp_path: Path, content: str, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="token file"):
        read_token(path)


def test_a_token_file_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (tmp_path / "none", tmp_path, fifo):
        with pytest.raises(ConfigError, match="token file"):
            read_token(path)


@pytest.mark.parametrize("address", ["8100", "127.0.0.1:", ":8100", "127.0.0.1:99999", "127.0.0.1:http"])
def test_a_bad_address_is_a_configuration_error(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        listen_tcp(address, tmp_path / "token")


def test_a_taken_port_is_a_startup_error(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 20)
    token.chmod(0o600)
    first = listen_tcp("127.0.0.1:0", token)
    try:
        with pytest.raises(StartupError, match="cannot listen"):
            listen_tcp(first.address.removeprefix("http://"), token)
    finally:
        first.close()
