"""A recorded terminal session against the real daemon: what a user sees, types, and is left with.

The same promises as in `tests/integration/boxctl`, which keeps the finer ones; here with a
real box, a real terminal inside it, and a daemon that is killed in the middle.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from boxlited.client import AsyncClient, Client
from boxlited.errors import Unauthenticated
from tests.integration.daemon_harness import Daemon, until
from tests.terminal import Terminal

BOXCTL = [sys.executable, "-m", "boxlited.cli.boxctl"]
SECONDS = 60


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon() as one:
        yield one.start()


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    for box in shared.client.list():
        shared.client.remove(box["box_id"], force=True)


def on_terminal(daemon: Daemon, *arguments: str, cols: int = 80, rows: int = 24) -> Terminal:
    return Terminal([*BOXCTL, *arguments], {"BOXLITED_SOCKET": str(daemon.socket)}, cols, rows)


def boxctl(daemon: Daemon, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    environment = {**os.environ, "BOXLITED_SOCKET": str(daemon.socket)}
    done = subprocess.run(
        [*BOXCTL, *arguments], input=stdin, capture_output=True, check=False, timeout=SECONDS, env=environment
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


# ---- the terminal


def test_run_it_rm_is_a_shell_in_a_box_that_leaves_nothing(daemon: Daemon) -> None:
    with on_terminal(daemon, "run", "-it", "--rm", "--name", "mine", "--", "sh", cols=61, rows=17) as terminal:
        terminal.type(b"stty size\n")
        terminal.expect(b"17 61")
        assert terminal.is_raw()
        assert daemon.get("mine")["labels"] == {"boxlited.command": "sh"}
        terminal.resize(101, 43)
        terminal.type(b"while [ \"$(stty size)\" != '43 101' ]; do :; done; echo now $((40+3))\n")
        terminal.expect(b"now 43")
        terminal.type(b"sh -c 'trap \"echo caught; exit 5\" INT; echo r$((1))ady; while :; do sleep 0.1; done'\n")
        terminal.expect(b"r1ady")
        terminal.type(b"\x03")
        terminal.expect(b"caught")
        terminal.type(b"exit $(($? + 4))\n")
        assert terminal.wait() == 9
        assert terminal.is_as_before()
    assert daemon.client.list() == []
    assert daemon.shims() == []


def test_ctrl_c_ends_the_program_and_its_code_is_ours(daemon: Daemon) -> None:
    with on_terminal(daemon, "run", "-it", "--rm", "sh", "-c", "echo up; exec sleep 987654") as terminal:
        terminal.expect(b"up")
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert terminal.is_as_before()
    assert daemon.client.list() == []


def test_a_daemon_that_is_killed_and_comes_back_does_not_end_a_conversation(daemon: Daemon) -> None:
    daemon.run(name="web")
    with on_terminal(daemon, "exec", "-it", "web", "sh") as terminal:
        terminal.type(b"echo before $((6*7))\n")
        terminal.expect(b"before 42")
        daemon.restart_after_kill()
        until(lambda: daemon.client.executions("web")[0]["attached"], "boxctl is attached again")
        terminal.type(b"echo after $((6*7)); exit 4\n")
        terminal.expect(b"after 42")
        assert terminal.wait() == 4
        assert terminal.shown.count(b"before 42") == 1
        assert terminal.is_as_before()


def test_detached_and_attached_again(daemon: Daemon) -> None:
    daemon.run(name="web")
    with on_terminal(daemon, "exec", "-it", "web", "sh") as terminal:
        terminal.type(b"A=kept; echo $((6*7))\n")
        terminal.expect(b"42")
        terminal.type(b"\x10\x11")
        assert terminal.wait() == 0
        assert terminal.is_as_before()
    until(lambda: not daemon.client.executions("web")[0]["attached"], "boxctl is gone")
    with on_terminal(daemon, "attach", "web", cols=33, rows=11) as terminal:
        terminal.type(b"echo $A; stty size; exit 3\n")
        terminal.expect(b"kept")
        terminal.expect(b"11 33")
        assert terminal.wait() == 3


def test_the_box_that_is_removed_ends_the_conversation(daemon: Daemon) -> None:
    daemon.run(name="web")
    with on_terminal(daemon, "exec", "-it", "web", "sh") as terminal:
        terminal.type(b"echo $((6*7))\n")
        terminal.expect(b"42")
        daemon.client.remove("web", force=True)
        assert terminal.wait() != 0
        assert terminal.is_as_before()


# ---- without a terminal


def test_exec_pipes_and_ends_as_the_command_does(daemon: Daemon) -> None:
    daemon.run(name="web")
    assert boxctl(daemon, "exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    data = os.urandom(3_000_000)
    assert boxctl(daemon, "exec", "-i", "web", "cat", stdin=data) == (0, data, b"")
    assert boxctl(daemon, "exec", "web", "/no/such/program")[0] == 127
    assert boxctl(daemon, "exec", "web", "/etc/passwd")[0] == 126
    assert boxctl(daemon, "run", "-i", "--rm", "sh", "-c", "cat; exit 6", stdin=b"hello") == (6, b"hello", b"")


def test_exec_starts_a_box_that_does_not_run(daemon: Daemon) -> None:
    daemon.create(name="web")
    assert boxctl(daemon, "exec", "web", "echo", "up") == (0, b"up\n", b"")
    assert daemon.get("web")["status"] == "running"


def test_a_signal_to_boxctl_reaches_the_command(daemon: Daemon) -> None:
    daemon.run(name="web")
    script = "trap 'echo got it; exit 5' INT; echo up; while :; do sleep 0.05; done"
    environment = {**os.environ, "BOXLITED_SOCKET": str(daemon.socket)}
    with subprocess.Popen(
        [*BOXCTL, "exec", "web", "sh", "-c", script], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == b"got it\n"
        assert child.wait(SECONDS) == 5


def test_files_go_in_and_come_out_as_they_were(daemon: Daemon, tmp_path: Path) -> None:
    daemon.run(name="web")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "data").write_bytes(os.urandom(2_000_000))
    (source / "sub" / "program").write_text("#!/bin/sh\necho run\n")
    (source / "sub" / "program").chmod(0o755)
    (source / "link").symlink_to("sub/program")
    assert boxctl(daemon, "cp", str(source), "web:/tmp/there") == (0, b"", b"")
    assert boxctl(daemon, "exec", "web", "/tmp/there/link")[1] == b"run\n"
    assert boxctl(daemon, "cp", "web:/tmp/there/.", str(tmp_path / "back")) == (0, b"", b"")
    assert (tmp_path / "back" / "data").read_bytes() == (source / "data").read_bytes()
    assert os.readlink(tmp_path / "back" / "link") == "sub/program"
    code, archive, _ = boxctl(daemon, "cp", "web:/tmp/there", "-")
    assert code == 0
    assert boxctl(daemon, "cp", "-", "web:/var/tmp", stdin=archive)[0] == 0
    assert boxctl(daemon, "exec", "web", "ls", "/var/tmp/there")[1] == b"data\nlink\nsub\n"
    assert boxctl(daemon, "cp", "web:/nowhere", "x")[0] != 0
    daemon.client.stop("web", 1)
    assert b"boxctl start" in boxctl(daemon, "cp", str(source / "data"), "web:/tmp/")[2]


# ---- the client library


@pytest.mark.parametrize("kind", ["sync", "trio", "asyncio"])
def test_over_tcp_with_a_token(kind: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-secret-of-the-test-0123456789\n")
    (tmp_path / "token").chmod(0o600)
    data = os.urandom(1_000_000)

    async def work(url: str) -> list[tuple[int, bytes, bytes]]:
        async with AsyncClient(base_url=url, token="a-secret-of-the-test-0123456789") as client:
            return [await client.run_command("web", ["cat"], input=data) for _ in range(2)]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Daemon() as daemon:
        daemon.start(arguments=["--listen", f"127.0.0.1:{port}", "--token-file", str(tmp_path / "token")])
        daemon.run(name="web")
        url = f"http://127.0.0.1:{port}"
        if kind == "sync":
            with Client(base_url=url, token="a-secret-of-the-test-0123456789") as client:
                done = [client.run_command("web", ["cat"], input=data) for _ in range(2)]
            with Client(base_url=url, token="wrong") as client, pytest.raises(Unauthenticated):
                client.attach("web", "x")
        else:
            done = anyio.run(work, url, backend=kind)
    assert done == [(0, data, b"")] * 2


def test_no_byte_is_lost_over_a_daemon_that_is_killed(daemon: Daemon) -> None:
    daemon.run(name="web")
    script = "read go; seq 200000; sleep 0.5; seq 200000"
    execution_id = daemon.client.exec("web", "sh", "-c", script)["execution_id"]
    seen: list[bytes] = []
    with (
        Client(daemon.socket) as client,
        client.attach("web", execution_id, 0, reconnect=True) as attachment,
    ):
        attachment.send(b"\n")
        outputs = iter(attachment)
        seen.append(next(outputs).data)
        killer = threading.Thread(target=daemon.restart_after_kill)
        killer.start()
        seen += [output.data for output in outputs]
        killer.join()
        assert attachment.exit_code == 0
    once = "".join(f"{number}\n" for number in range(1, 200001)).encode()
    assert hashlib.sha256(b"".join(seen)).digest() == hashlib.sha256(once + once).digest()


async def _many(socket: Path, ref: str, count: int) -> list[str]:
    outputs = [""] * count

    async def one(index: int) -> None:
        done = await client.run_command(ref, ["sh", "-c", f"seq {index} 20000 | sha256sum"])
        outputs[index] = done.stdout.decode().split()[0]

    async with AsyncClient(socket) as client, anyio.create_task_group() as tasks:
        for index in range(count):
            tasks.start_soon(one, index)
    return outputs


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_many_commands_at_once_lose_nothing(daemon: Daemon, backend: str) -> None:
    daemon.run(name="web")
    expected = [
        hashlib.sha256("".join(f"{number}\n" for number in range(index, 20001)).encode()).hexdigest()
        for index in range(20)
    ]
    assert anyio.run(_many, daemon.socket, "web", 20, backend=backend) == expected
