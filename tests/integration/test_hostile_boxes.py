"""Rows 27, 29 and 30 of the fault list by a box that tries: what is planted is planted by its workload.

A box of engine `process` has the daemon's user and the daemon's files: it reaches its own directory, and every
trick works as far as the file. One of engine `sandbox` tries the same, and reaches nothing. A variant of each row is
also tried under a daemon of an ordinary user, with what its privileges make another matter.
"""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from tests.integration.daemon_harness import Daemon, kill_pid
from tests.integration.ordinary import ORDINARY, SELF, all_or, daemons_of_users
from tests.integration.puppet import CONFIG, ENGINES, do, puppet, tell

PLANTS = {
    "fifo": "mkfifo $1/exit",
    "link": "ln -s /etc/passwd $1/exit",
    "hard link": 'echo \'{"type":"error","exit_code":1}\' >$1/outside; ln $1/outside $1/exit',
    "sparse": "truncate -s 10G $1/exit",
    "nested": "head -c 60000 /dev/zero | tr '\\0' '[' >$1/exit",
    "directory": "mkdir $1/exit; touch $1/exit/x",
    "socket": f"{sys.executable} -c 'import socket, sys; socket.socket(1).bind(sys.argv[1])' $1/exit",
    "device": "ln -s /dev/zero $1/exit",
    "closed": "echo nonsense >$1/exit; chmod 0 $1/exit",
    "forged": 'echo \'{"type":"panic","exit_code":101,"message":"forged","run_id":"x"}\' >$1/exit',
}


@pytest.fixture(scope="module")
def daemons() -> Iterator[Callable[[str], Daemon]]:
    with daemons_of_users(CONFIG) as of:
        yield of


@pytest.fixture
def daemon(daemons: Callable[[str], Daemon], request: pytest.FixtureRequest) -> Daemon:
    return daemons(getattr(request, "param", SELF))


def tried(names: str, own: Iterable[tuple[str, ...]], ordinary: Iterable[tuple[str, ...]]) -> pytest.MarkDecorator:
    """All cases under the daemon of whoever runs the tests; under one of an ordinary user some, see `all_or`."""
    cases = [(SELF, *case) for case in own] + [(ORDINARY, *case) for case in ordinary]
    return pytest.mark.parametrize(("daemon", *names.split()), cases, indirect=["daemon"])


def entries(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


# -- row 27


@tried("engine plant", product(ENGINES, PLANTS), all_or(product(ENGINES, ["closed"]), product(ENGINES, PLANTS)))
def test_row_27_a_box_that_plants_its_exit_file_and_ends(daemon: Daemon, engine: str, plant: str) -> None:
    """The shim writes over what is no directory; what stands in its way costs this box its reason, and no more."""
    other, box = daemon.run(), puppet(daemon, engine)
    do(daemon, box, PLANTS[plant])
    reached = "exit" in entries(daemon.box_dir(box["box_id"]))
    assert reached == (engine == "process")
    tell(box, "exit 7")
    row = daemon.until_box(box["box_id"], lambda row: row["status"] in ("stopped", "failed"), "ends")
    if plant == "directory" and reached:
        assert (row["status"], "exit file was refused" in row["failure_reason"]) == ("failed", True)
    else:
        assert (row["status"], row["stop_cause"], row["exit_code"]) == ("stopped", "exited", 7)
    assert daemon.get(other["box_id"])["pid"] == other["pid"]
    for one in (box, other):
        daemon.client.remove(one["box_id"], force=True)


@tried("plant", product(PLANTS), all_or(product(["closed", "device"]), product(PLANTS)))
def test_row_27_a_box_that_plants_its_exit_file_and_loses_its_shim(daemon: Daemon, plant: str) -> None:
    """Nobody writes over it: the daemon itself looks at what lies there."""
    other, box = daemon.run(), puppet(daemon, "process")
    do(daemon, box, PLANTS[plant])
    kill_pid(box["pid"])
    row = daemon.wait_status(box["box_id"], "failed")
    if plant == "forged":  # of another run: not blamed on this one
        assert row["stop_cause"] == "shim_killed"
        assert "forged" not in row["failure_reason"] + str(daemon.client.crash(box["box_id"]))
    else:
        assert "exit file was refused" in row["failure_reason"]
    assert "root:" not in row["failure_reason"] + daemon.client.crash(box["box_id"])["debug_info"]
    assert daemon.client.start(box["box_id"])["status"] == "running"
    assert daemon.get(other["box_id"])["pid"] == other["pid"]
    for one in (box, other):
        daemon.client.remove(one["box_id"], force=True)


def test_row_27_an_exit_file_that_changes_while_it_is_read(daemon: Daemon) -> None:
    for _ in range(5):
        box = daemon.run()
        path, over = daemon.box_dir(box["box_id"]) / "exit", threading.Event()

        def change(path: Path = path, over: threading.Event = over) -> None:
            while not over.is_set():
                for make in (
                    os.mkfifo,
                    lambda at: os.symlink("/dev/zero", at),
                    lambda at: at.write_bytes(b"[" * 65000),
                ):
                    with suppress(OSError):
                        make(path)
                        os.truncate(path, 10 << 30)
                    with suppress(OSError):
                        path.unlink()

        changing = threading.Thread(target=change)
        changing.start()
        try:
            kill_pid(box["pid"])
            row = daemon.wait_status(box["box_id"], "failed", "stopped")
        finally:
            over.set()
            changing.join()
        assert row["stop_cause"] in ("shim_killed", "crashed", "lost")
        daemon.client.remove(box["box_id"], force=True)


# -- row 29

ESCAPES = "\\033]0;owned\\007\\033[2J\\033[6n\\033P$q\\033\\\\ \\302\\2332J \\342\\200\\256 \\033[31mred\\033[0m"


def on_a_terminal(daemon: Daemon, *words: str) -> bytes:
    """What boxctl shows where its output is a terminal."""
    master, slave = pty.openpty()
    env = {**os.environ, "BOXLITED_SOCKET": str(daemon.socket), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-m", "boxlited.cli.boxctl", *words],
        env=env, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    with suppress(OSError):  # EIO: nobody has it open any more
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    process.wait(30)
    return shown


def is_harmless(shown: bytes) -> bool:
    """No control character but newlines, tabs and colours."""
    text = re.sub(r"\x1b\[[0-9;:]*m", "", shown.decode("utf-8"))
    return not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


@tried("engine", product(ENGINES), product(ENGINES))
def test_row_29_nothing_that_a_box_says_reaches_a_terminal_as_it_is(daemon: Daemon, engine: str) -> None:
    line = "head -c 1048576 /dev/zero | tr '\\0' A; echo"
    script = f"printf '{ESCAPES}\\n'; {line}; printf '{ESCAPES}' >&2; kill -SEGV $$"
    box = daemon.run(["/bin/sh", "-c", script], engine=engine)
    daemon.wait_status(box["box_id"], "failed")
    for words in (["logs", box["box_id"]], ["crash", box["box_id"]], ["ps", "-a"], ["inspect", box["box_id"]]):
        shown = on_a_terminal(daemon, *words)
        assert is_harmless(shown), words
    assert b"owned" in on_a_terminal(daemon, "logs", box["box_id"])
    report = daemon.client.crash(box["box_id"])
    assert all(len(part) < 2000 and part.isprintable() for part in report["debug_info"].split("\n"))
    assert "\x1b" not in daemon.log_text()
    daemon.client.remove(box["box_id"])


@pytest.mark.parametrize("engine", ENGINES)
def test_row_29_nothing_that_a_command_says_reaches_a_terminal_as_it_is(daemon: Daemon, engine: str) -> None:
    box = daemon.run(engine=engine)
    shown = on_a_terminal(daemon, "exec", box["name"], "/bin/sh", "-c", f"printf '{ESCAPES}'; printf '{ESCAPES}' >&2")
    assert b"owned" in shown
    assert is_harmless(shown)
    refused = on_a_terminal(daemon, "exec", box["name"], "\x1b]0;owned\x07no-such-program")
    assert b"no-such-program" in refused
    assert is_harmless(refused)
    assert "\x1b" not in daemon.log_text()
    daemon.client.remove(box["box_id"], force=True)


# -- row 30

BAD = [
    "%2e%2e",
    "..%2f..%2fetc",
    "a%00b",
    "x" * 300,
    "%D0%B0bcdefghijklmnop",
    "%ef%bd%81" * 16,
    "a%2fb",
    "%1b%5b2J",
    "%ff%fe",
]
ROUTES = [
    "GET /v1/boxes/{}", "DELETE /v1/boxes/{}?force=true", "POST /v1/boxes/{}/start", "POST /v1/boxes/{}/exec",
    "GET /v1/boxes/{}/logs", "GET /v1/boxes/{}/crash", "GET /v1/boxes/{}/files?path=/root",
    "GET /v1/boxes/BOX/executions/{}", "DELETE /v1/boxes/BOX/executions/{}", "GET /v1/boxes/BOX/executions/{}/attach",
    "POST /v1/boxes/BOX/executions/{}/signal",
]  # fmt: skip


@tried("bad", product(BAD), all_or(product(BAD[:1]), product(BAD)))
def test_row_30_no_route_takes_such_a_name(daemon: Daemon, bad: str) -> None:
    box = daemon.run()
    before = tree(daemon)
    for route in ROUTES:
        method, _, path = route.replace("BOX", box["box_id"]).format(bad).partition(" ")
        reply = raw(daemon, method, path)
        assert reply.split(b" ")[1] in (b"400", b"404", b"405"), (route, reply[:300])
        assert b"\x1b" not in reply
    assert tree(daemon) == before
    assert "\x1b" not in daemon.log_text()
    daemon.client.remove(box["box_id"], force=True)


def raw(daemon: Daemon, method: str, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        body = b'{"signal":15}' if path.endswith("signal") else b'{"command":"true"}' if path.endswith("exec") else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        reply = b""
        while chunk := sock.recv(65536):
            reply += chunk
    return reply


def tree(daemon: Daemon) -> set[str]:
    """Every path of the home and beside it, but for the database's own files."""
    return {str(path) for path in daemon.root.rglob("*") if "boxlited.db" not in path.name}
