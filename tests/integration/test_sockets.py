"""Who may talk to the daemon: files and modes of the sockets, the kernel's word about the peer, tokens."""

from __future__ import annotations

import grp
import http.client
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from boxlited.client import SocketForbidden
from boxlited.client.client import Client
from boxlited.client.connections import UnixConnection
from boxlited.errors import BoxlitedError, PermissionDenied, Unauthenticated
from tests.integration.daemon_harness import Daemon, until
from tests.integration.service_manager import ManagedDaemon
from tests.unit import fake_daemon

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
STRANGER = 65534
MEMBERS = 54321  # a group that is in no file: the daemon cannot be told its name
TOKEN = "correct-horse-battery-staple"
END_SECONDS = 20.0
ROUTES = [
    ("GET", "/v1/boxes"),
    ("GET", "/v1/me"),
    ("GET", "/healthz"),
    ("POST", "/v1/boxes"),
    ("DELETE", "/v1/boxes/x"),
]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as one:
        one.root.chmod(0o755)  # others get as far as the sockets
        yield one


def read_only(daemon: Daemon) -> Path:
    return daemon.socket.with_name("boxlited-ro.sock")


def ask(connection: http.client.HTTPConnection, method: str, target: str, token: str | None = None) -> tuple[int, Any]:
    """(status, body); status 0 when the connection was refused."""
    body = json.dumps({"image": "host"}) if method == "POST" else None
    headers = {"Content-Type": "application/json", **({"Authorization": token} if token is not None else {})}
    with closing(connection):
        try:
            connection.request(method, target, body, headers)
        except PermissionError:
            return 0, None
        reply = connection.getresponse()
        content = reply.read()
        if reply.status == 401:
            assert str(reply.getheader("WWW-Authenticate")).startswith("Bearer")
        return reply.status, json.loads(content) if content else None


def as_user(action: Callable[[], Any], uid: int = STRANGER, gid: int = STRANGER, groups: tuple[int, ...] = ()) -> Any:
    """The result of `action` in a process of another user."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of a fork beside threads: the child uses no lock of theirs
        pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(writing, json.dumps(action()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as result:
        content = result.read()
    os.waitpid(pid, 0)
    return json.loads(content)


def status_of(path: Path, method: str, target: str) -> int:
    return ask(UnixConnection(str(path)), method, target)[0]


# ---- the files


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_sockets_are_for_owner_and_group_whatever_the_umask(daemon: Daemon, umask: int) -> None:
    before = os.umask(umask)
    try:
        daemon.start()
    finally:
        os.umask(before)
    for path in (daemon.socket, read_only(daemon)):
        status = path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o660, os.geteuid())
    assert stat.S_IMODE(daemon.socket.parent.stat().st_mode) == 0o755, "the group must get through to the socket"
    assert {path.name for path in daemon.socket.parent.iterdir()} == {daemon.socket.name, read_only(daemon).name}
    for path in (daemon.home, daemon.home / "boxes", daemon.home / "db", daemon.home / "quarantine"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    box = daemon.create()
    for path in [daemon.box_dir(box["box_id"]), *daemon.box_dir(box["box_id"]).rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@needs_root
def test_the_sockets_belong_to_the_group_of_the_configuration() -> None:
    group = grp.getgrall()[-1]
    with Daemon(f"[api]\ngroup = '{group.gr_name}'\n") as daemon:
        daemon.start()
        assert {path.stat().st_gid for path in (daemon.socket, read_only(daemon))} == {group.gr_gid}


def test_a_group_that_does_not_exist_keeps_nobody_from_the_start() -> None:
    with Daemon("[api]\ngroup = 'no-such-group'\n") as daemon:
        daemon.start()
        assert daemon.socket.stat().st_gid == os.getegid()


# ---- the peer


@needs_root
def test_the_kernel_keeps_a_stranger_from_both_sockets(daemon: Daemon) -> None:
    daemon.start()
    for path in (daemon.socket, read_only(daemon)):
        assert as_user(lambda p=path: status_of(p, "GET", "/healthz")) == 0


@needs_root
def test_a_stranger_whom_the_mode_lets_in_is_refused_by_his_credentials(daemon: Daemon) -> None:
    daemon.start()
    for path in (daemon.socket, read_only(daemon)):
        path.chmod(0o666)  # as a mistake, or a race, would have it
        for method, target in ROUTES:
            status, body = as_user(lambda p=path, m=method, t=target: ask(UnixConnection(str(p)), m, t))
            assert status == 403, (path, method, target)
            assert body["error"]["code"] == "permission_denied"
            assert f"uid {STRANGER}" in body["error"]["message"]
    assert daemon.client.list() == []


@needs_root
@pytest.mark.parametrize(
    ("gid", "groups"),
    [(MEMBERS, ()), (STRANGER, (1, MEMBERS)), (STRANGER, (*range(100, 350), MEMBERS)), (STRANGER, (1, MEMBERS - 1))],
    ids=["primary group", "one of two", "one of very many", "another group"],
)
def test_a_member_of_the_group_writes_here_and_only_reads_there(gid: int, groups: tuple[int, ...]) -> None:
    may = MEMBERS in (gid, *groups)
    with ManagedDaemon() as daemon:
        daemon.root.chmod(0o755)
        for path, name in ((daemon.socket, "api"), (read_only(daemon), "api-ro")):
            daemon.hand_over(path, name, mode=0o660)
            os.chown(path, -1, MEMBERS)
        daemon.start()
        for path, writes in ((daemon.socket, 201), (read_only(daemon), 403)):
            path.chmod(0o666)  # so that it is the daemon that decides
            said = as_user(
                lambda p=path: [status_of(p, "POST", "/v1/boxes"), status_of(p, "GET", "/v1/boxes")],
                gid=gid, groups=groups,
            )  # fmt: skip
            assert said == ([writes, 200] if may else [403, 403])
        assert len(daemon.client.list()) == int(may)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_read_only_socket_changes_nothing(daemon: Daemon, method: str) -> None:
    box = daemon.start().run()
    target = f"/v1/boxes/{box['box_id']}"
    for suffix in ("", "/stop", "/kill", "/files?path=/x", "?force=true"):
        status, body = ask(UnixConnection(str(read_only(daemon))), method, target + suffix)
        assert status in (403, 405), (method, suffix)
        assert body["error"]["code"] in ("permission_denied", "invalid_argument")
    with Client(read_only(daemon)) as reader:
        assert reader.get(box["box_id"])["status"] == "running"
        assert reader.me()["scopes"] == ["box:read", "me:read"]
        with pytest.raises(PermissionDenied):
            reader.reconcile(dry_run=True)


def test_who_changed_what_is_in_the_log(daemon: Daemon) -> None:
    daemon.start()
    with closing(UnixConnection(str(daemon.socket))) as connection:
        connection.request("POST", "/v1/boxes", json.dumps({"image": "host"}), {"X-Request-Id": "mine-1"})
        assert connection.getresponse().status == 201
    (line,) = [json.loads(text) for text in daemon.log_text().splitlines() if '"mine-1"' in text]
    assert (line["uid"], line["pid"], line["method"], line["path"]) == (os.geteuid(), os.getpid(), "POST", "/v1/boxes")


def test_many_who_connect_and_say_nothing_keep_nobody_out(daemon: Daemon) -> None:
    daemon.start()
    silent = []
    try:
        for _ in range(600):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(daemon.socket))
            silent.append(sock)
        assert daemon.create()["status"] == "configured"
    finally:
        for sock in silent:
            sock.close()


# ---- tokens


def token_file(daemon: Daemon, content: str = TOKEN, mode: int = 0o600) -> Path:
    path = daemon.root / "token"
    path.write_text(f"{content}\n")
    path.chmod(mode)
    return path


def start_on_tcp(daemon: Daemon) -> tuple[str, int]:
    daemon.start(arguments=["--listen", "127.0.0.1:0", "--token-file", str(token_file(daemon))])
    found = until(lambda: re.search(r"http://([0-9.]+):(\d+)", daemon.log_text()), "the address is in the log")
    assert found is not None
    return found[1], int(found[2])


@pytest.mark.parametrize(
    "given",
    [None, "", TOKEN, "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
     f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN}, Bearer {TOKEN}", "Bearer \xe9\xff"],
)  # fmt: skip
def test_tcp_without_the_right_token_is_401(tcp: tuple[Daemon, str, int], given: str | None) -> None:
    daemon, host, port = tcp
    for method, target in [*ROUTES, ("GET", "/metrics"), ("GET", "/v1/events"), ("GET", "/v1/no-such-route")]:
        if target == "/healthz":
            continue
        status, body = ask(http.client.HTTPConnection(host, port, timeout=END_SECONDS), method, target, given)
        assert (status, body["error"]["code"]) == (401, "unauthenticated"), (method, target)
        assert TOKEN not in json.dumps(body)
    for target in ("/v1/config", "/healthz"):  # say nothing of any box
        assert ask(http.client.HTTPConnection(host, port, timeout=END_SECONDS), "GET", target, given)[0] == 200
    assert daemon.client.list() == []


@pytest.fixture(scope="module")
def tcp() -> Iterator[tuple[Daemon, str, int]]:
    with Daemon() as daemon:
        yield daemon, *start_on_tcp(daemon)


def test_tcp_with_the_token_may_do_everything_and_the_token_is_never_logged(daemon: Daemon) -> None:
    host, port = start_on_tcp(daemon)
    with Client(base_url=f"http://{host}:{port}", token=TOKEN) as client:
        box = client.create({"image": "host", "cmd": ["sleep", "99"]})
        assert client.start(box["box_id"])["status"] == "running"
        assert client.me()["principal_type"] == "service_account"
    with Client(base_url=f"http://{host}:{port}", token=TOKEN + "x") as client, pytest.raises(Unauthenticated):
        client.list()
    assert daemon.client.get(box["box_id"])["status"] == "running"  # the unix socket asks for none
    assert TOKEN not in daemon.log_text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_token_file_that_others_may_touch_is_refused(daemon: Daemon, mode: int) -> None:
    assert "chmod 600" in refused_token(daemon, token_file(daemon, mode=mode))


@pytest.mark.parametrize(("content", "word"), [("short", "16"), ("two words of a token", "visible"), ("", "16")])
def test_a_token_that_is_none_is_refused_and_not_shown(daemon: Daemon, content: str, word: str) -> None:
    message = refused_token(daemon, token_file(daemon, content))
    assert word in message
    assert not content or content not in message


def test_a_token_file_that_is_a_fifo_does_not_hold_the_start(daemon: Daemon) -> None:
    os.mkfifo(daemon.root / "fifo", 0o600)
    assert "plain file" in refused_token(daemon, daemon.root / "fifo")


def refused_token(daemon: Daemon, path: Path) -> str:
    argv = [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(daemon.home)]
    argv += ["--socket", str(daemon.socket), "--listen", "127.0.0.1:0", "--token-file", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=END_SECONDS, check=False)
    assert done.returncode == 78
    assert str(path) in done.stderr
    assert not daemon.socket.exists()
    return done.stderr


@pytest.mark.parametrize("occupied", [True, False])
def test_a_start_that_is_refused_leaves_no_home_behind_that_it_made(daemon: Daemon, *, occupied: bool) -> None:
    if occupied:
        daemon.start()
    else:
        daemon.socket.parent.mkdir()
        daemon.socket.write_text("mine")
    fresh = daemon.root / "fresh"
    argv = [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(fresh), "--socket"]
    done = subprocess.run([*argv, str(daemon.socket)], capture_output=True, text=True, timeout=END_SECONDS, check=False)
    assert done.returncode == 73
    assert str(daemon.socket) in done.stderr
    assert not fresh.exists()


_FORBIDDEN = """
import os, sys
from boxlited.client import Client
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Client(sys.argv[1]).list()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.root
@needs_root
def test_permission_denied_names_the_group_to_join() -> None:
    """In a child: it becomes another user after its imports are found."""
    with tempfile.TemporaryDirectory(prefix="boxlited-test-") as directory:
        os.chmod(directory, 0o755)
        with fake_daemon.serving(Path(directory) / "d.sock") as fake:
            os.chmod(fake.socket, 0o660)
            done = subprocess.run(
                [sys.executable, "-c", _FORBIDDEN, str(fake.socket)],
                check=False, capture_output=True, text=True, timeout=30,
            )  # fmt: skip
    assert done.stdout.startswith("SocketForbidden permission denied on"), done.stderr
    assert "join group boxlited" in done.stdout
    assert issubclass(SocketForbidden, BoxlitedError)
