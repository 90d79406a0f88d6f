"""`boxlited serve` from outside: what it refuses and leaves untouched, how it ends, and a log that nobody takes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxlited.client.client import Client
from boxlited.errors import BoxlitedError
from tests.integration.daemon_harness import Daemon, is_alive, until
from tests.integration.programs import DEAF, END_SECONDS, PROGRAM, boxlited


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as one:
        yield one


def refused(daemon: Daemon, *arguments: object, env: dict[str, str] | None = None) -> tuple[int, str]:
    """`serve` on the daemon's home and socket, where it cannot: exit code and message."""
    done = boxlited("serve", "--home", daemon.home, "--socket", daemon.socket, *arguments, env=env)
    assert done.stderr.startswith("boxlited: ")
    return done.returncode, done.stderr


# ---- what cannot be served


@pytest.mark.parametrize(
    ("arguments", "env", "code", "words"),
    [
        ([], {"BOXLITED_LOG_LEVEL": "loud"}, 78, ["BOXLITED_LOG_LEVEL", "'warning'"]),
        (["--config", "/nowhere/c.toml"], {}, 78, ["/nowhere/c.toml"]),
        (["--socket", "/tmp/" + "x" * 120], {}, 78, ["--socket", "107"]),
        (["--home", ""], {}, 78, ["--home", "empty"]),
        (["--home", "/proc/boxlited"], {}, 73, ["/proc/boxlited", "BOXLITED_HOME"]),
        (["--socket", "/proc/boxlited/s"], {}, 73, ["/proc/boxlited/s"]),
        (["--listen", "127.0.0.1:0"], {}, 78, ["token"]),
        (["--listen", "127.0.0.1:0", "--token-file", "/nowhere/token"], {}, 78, ["/nowhere/token"]),
        (["--token-file", "/nowhere/token"], {}, 78, ["--token-file", "--listen"]),
        (["--listen", "8100", "--token-file", "/nowhere/token"], {}, 78, ["HOST:PORT"]),
    ],
)
def test_a_wrong_setting_is_named(
    daemon: Daemon, arguments: list[str], env: dict[str, str], code: int, words: list[str]
) -> None:
    returned, message = refused(daemon, *arguments, env=env)
    assert returned == code
    assert all(word in message for word in words), message
    assert not daemon.socket.exists()


def test_a_limit_of_open_files_that_lets_nothing_work_is_said_and_the_least_one_is_enough(daemon: Daemon) -> None:
    argv = [
        "prlimit",
        "--nofile=255",
        sys.executable,
        "-m",
        "boxlited.cli.boxlited",
        "serve",
        "--home",
        str(daemon.home),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (71, 1)
    assert "at least 256 are needed" in done.stderr
    daemon.prefix = ["prlimit", "--nofile=256"]
    assert daemon.start().run()["status"] == "running"


@pytest.mark.parametrize("part", ["", "boxes", "db", "quarantine"])
def test_a_file_where_a_directory_of_the_home_should_be_is_named_and_kept(daemon: Daemon, part: str) -> None:
    file = daemon.home / part
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    code, message = refused(daemon)
    assert code == 73
    assert f"{file}: is no directory" in message
    assert file.read_text() == "mine"


def test_a_second_daemon_names_the_first_and_leaves_it_alone(daemon: Daemon) -> None:
    box = daemon.start().run()
    assert daemon.process is not None
    began = time.monotonic()
    code, message = refused(daemon)
    assert code == 73
    assert f"pid {daemon.process.pid}" in message
    assert time.monotonic() - began < 5.0, "it waits for a daemon that does not end"
    other = boxlited("serve", "--home", daemon.root / "other", "--socket", daemon.socket)
    assert other.returncode == 73
    assert str(daemon.socket) in other.stderr
    assert daemon.get(box["box_id"])["status"] == "running"
    assert daemon.socket.exists()


def test_a_dead_daemons_sockets_are_replaced(daemon: Daemon) -> None:
    daemon.start().kill9()
    read_only = daemon.socket.with_name("boxlited-ro.sock")
    before = [path.lstat().st_ino for path in (daemon.socket, read_only)]
    daemon.start()
    assert [path.lstat().st_ino for path in (daemon.socket, read_only)] != before
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    assert not read_only.exists()


@pytest.mark.parametrize("name", ["boxlited.sock", "boxlited-ro.sock"])
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_no_socket_is_refused_and_kept(daemon: Daemon, kind: str, name: str) -> None:
    box = daemon.start().run(restart={"policy": "always"})
    assert daemon.stop() == 0
    path = daemon.socket.with_name(name)
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(daemon.root / "nowhere")
    else:
        path.mkdir()
    before = path.lstat()
    code, message = refused(daemon)
    assert code == 73
    assert f"{path} is not a socket" in message
    assert path.lstat() == before
    assert is_alive(box["pid"])


# ---- the end of a daemon


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_daemon_with_0_and_boxes_live_on(daemon: Daemon, number: signal.Signals) -> None:
    box = daemon.start().run()
    assert daemon.process is not None
    daemon.process.send_signal(number)
    assert daemon.process.wait(END_SECONDS) == 0
    assert is_alive(box["pid"])
    daemon.drop_client()
    assert daemon.start().get(box["box_id"])["pid"] == box["pid"]


def test_a_second_ctrl_c_while_it_stops_changes_nothing() -> None:
    with Daemon("[stop]\ndefault_timeout_seconds = 0.5\n") as daemon:
        box = daemon.start().run(DEAF)
        until(lambda: b"deaf" in b"".join(daemon.client.logs(box["box_id"])), "the box is deaf")
        stopping = threading.Thread(target=stop_and_be_cut_off, args=(daemon.socket, box["box_id"]))
        stopping.start()
        daemon.wait_status(box["box_id"], "stopping")
        assert daemon.process is not None
        for line in ('"stopping"', '"stopping already"'):
            daemon.process.send_signal(signal.SIGINT)
            until(lambda said=line: said in daemon.log_text(), f"{line} is said")  # type: ignore[misc]
        assert daemon.process.wait(END_SECONDS) == 0
        stopping.join(END_SECONDS)
        assert "Traceback" not in daemon.log_text()
        daemon.drop_client()
        daemon.start().wait_status(box["box_id"], "stopped")  # the stop was an intent, and is carried out


def stop_and_be_cut_off(path: Path, box_id: str) -> None:
    with Client(path) as client, pytest.raises(BoxlitedError):
        client.stop(box_id, timeout_seconds=60.0)


# ---- a log that nobody takes


@pytest.mark.parametrize("how", ["closed", "reader gone", "reader stuck", "disk full"])
def test_the_daemon_serves_although_its_log_cannot_be_written(daemon: Daemon, how: str) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    to = os.open("/dev/full", os.O_WRONLY) if how == "disk full" else writing
    close = "import os, sys; [os.close(n) for n in range(3)]; os.execv(sys.argv[1], sys.argv[1:])"
    argv = [*PROGRAM, "serve", "--home", str(daemon.home), "--socket", str(daemon.socket)]
    argv = [sys.executable, "-c", close, *argv] if how == "closed" else argv
    daemon.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=to, stderr=to)
    os.close(writing)
    if how == "reader gone":
        os.close(reading)
    daemon.wait_ready()
    boxes = [daemon.run() for _ in range(20)]  # each of them is worth some lines
    assert {row["status"] for row in daemon.table().values()} == {"running"}
    for box in boxes:
        daemon.client.remove(box["box_id"], force=True)
    if how == "closed":
        files = [os.readlink(f"/proc/{daemon.process.pid}/fd/{number}") for number in range(3)]
        assert files == [os.devnull] * 3
    assert daemon.stop() == 0
