"""Who may speak on a box's control channel: its daemon, and to the daemon its shim; nobody else, whatever they try."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from boxlited.shim import frames, proof
from boxlited.shim.frames import Kind
from tests.integration.commands import Commands
from tests.integration.daemon_harness import Daemon, is_alive, signal_pid, until
from tests.integration.impatient import impatient
from tests.integration.test_external_engine import COMMAND

CONFIG = f"[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n[engines.external.vm]\ncommand = {json.dumps(COMMAND)}\n"
HELLO = proof.hello(bytes(32))
EXEC = frames.frame(Kind.REQUEST, b'{"op": "exec", "execution_id": "e", "command": "touch", "args": ["/tmp/done"]}')
FAKE_SHIM = """
import os, socket, sys
os.unlink(sys.argv[1])
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
print("listening", flush=True)
while True:
    client, _ = server.accept()
    print("heard", len(client.recv(1000)), flush=True)
    client.close()
"""


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


@pytest.fixture
def box(daemon: Daemon) -> Commands:
    return Commands(daemon, daemon.run()["box_id"])


def control_socket(box: Commands) -> Path:
    return box.daemon.box_dir(box.box) / "sockets" / "control.sock"


def said_to(path: Path, *pieces: bytes) -> bytes:
    """Everything that a stranger is answered before it is closed, or leaves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        directory = os.open(path.parent, os.O_PATH)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        answer = b""
        with suppress(OSError):
            for number, piece in enumerate(pieces):
                sock.sendall(piece)
                if number == 0 and piece == HELLO:
                    answer += sock.recv(proof.ANSWER_BYTES)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                answer += data
        return answer


def test_a_stranger_gets_nothing_and_gets_nothing_done(box: Commands) -> None:
    path = control_socket(box)
    other = Commands(box.daemon, box.daemon.run()["box_id"])
    seen = said_to(control_socket(other), HELLO)
    replayed = proof.client_proof(bytes(32), bytes(32), seen[1:33])
    assert said_to(path) == b""
    assert said_to(path, EXEC) == b""
    assert said_to(path, b"GET / HTTP/1.1\r\n\r\n" * 100) == b""
    assert said_to(path, proof.MAGIC + b"\2" + bytes(32), EXEC) == b""
    for attempt in ((EXEC,), (bytes(32), EXEC), (seen[33:], EXEC), (replayed, EXEC), (os.urandom(4096),)):
        assert len(said_to(path, HELLO, *attempt)) == proof.ANSWER_BYTES, "no more than the answer to the hello"
    assert box.list() == []
    assert box.sh("ls /tmp") == ""


def test_six_hundred_strangers_at_once_are_bounded_and_keep_nobody_out_for_long(box: Commands) -> None:
    path = control_socket(box)
    shim = box.daemon.get(box.box)["pid"]
    strangers = []
    try:
        for _ in range(600):
            sock = socket.socket(socket.AF_UNIX)
            strangers.append(sock)
            sock.settimeout(10)
            sock.connect(str(path))
        until(lambda: len(os.listdir(f"/proc/{shim}/fd")) > 500, "they are accepted")
        assert len(os.listdir(f"/proc/{shim}/fd")) < 540
        until(lambda: box.ask_exec("true").status == 201, "the strangers' time to prove themselves is over", 40)
    finally:
        for sock in strangers:
            sock.close()


def test_the_key_is_nowhere_but_in_its_file_and_in_memory(box: Commands) -> None:
    daemon = box.daemon
    box.run("true")
    row = daemon.get(box.box)
    home_key = (daemon.home / "control.key").read_bytes()
    run_key = proof.run_key(home_key, box.box, row["run_id"])
    secrets = [form for key in (home_key, run_key) for form in (key, key.hex().encode(), key.hex().upper().encode())]
    files = [path for path in daemon.root.rglob("*") if path.is_file() and path.name != "control.key"]
    assert len(files) > 5
    assert daemon.process is not None
    pids = {daemon.process.pid, row["pid"], *daemon.own_processes()}
    files += [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
    for path in files:
        with suppress(FileNotFoundError, ProcessLookupError):
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret in content], path
    assert run_key.hex() not in box.sh("cat /proc/*/environ /proc/*/cmdline; env")
    assert (daemon.home / "control.key").stat().st_mode & 0o777 == 0o600


def test_a_shim_that_cannot_prove_itself_is_unknown_and_left_alone_until_it_can(box: Commands) -> None:
    daemon = box.daemon
    shim = daemon.get(box.box)["pid"]
    path = daemon.home / "control.key"
    daemon.stop()
    path.write_bytes(os.urandom(32))
    daemon.start()
    assert "does not know the key" in box.refused(409, "invalid_state", "true")
    row = daemon.get(box.box)
    assert (row["status"], row["identity"]) == ("unknown", "unknown")
    for refused in (
        lambda: daemon.client.stop(box.box, 0),
        lambda: daemon.client.kill(box.box),
        lambda: daemon.client.kill(box.box, 15),
        lambda: daemon.client.remove(box.box, force=True),
        lambda: daemon.client.start(box.box),
        lambda: daemon.client.restart(box.box),
    ):
        with pytest.raises(Exception, match=r"unknown|could not prove itself") as caught:
            refused()
        assert getattr(caught.value, "code", None) == "invalid_state"
    (daemon.box_dir(box.box) / "shim.pid").unlink()
    with pytest.raises(Exception, match="could not prove itself"):
        daemon.client.stop(box.box, 0)
    assert is_alive(shim)
    assert [pid for _box, pid in daemon.shims()] == [shim]


def test_with_the_right_key_back_an_exec_makes_it_running_again(box: Commands) -> None:
    daemon = box.daemon
    execution = box.exec("sleep", "987654")
    path = daemon.home / "control.key"
    right = path.read_bytes()
    daemon.stop()
    path.write_bytes(os.urandom(32))
    daemon.start()
    box.refused(409, "invalid_state", "true")
    assert daemon.get(box.box)["status"] == "unknown"
    daemon.stop()
    path.write_bytes(right)
    daemon.start()
    assert box.run("echo", "back").stdout == b"back\n"
    assert daemon.get(box.box)["status"] == "running"
    assert box.info(execution)["status"] == "running"
    assert daemon.client.stop(box.box, 1)["status"] == "stopped"


def test_an_unknown_shim_that_ends_is_settled_as_ended(box: Commands) -> None:
    daemon = box.daemon
    daemon.stop()
    (daemon.home / "control.key").write_bytes(os.urandom(32))
    daemon.start()
    box.refused(409, "invalid_state", "true")
    shim = daemon.get(box.box)
    signal_pid(next(pid for _box, pid in daemon.shims()), 9)
    assert daemon.wait_status(box.box, "failed", "stopped")["run_id"] == shim["run_id"]
    assert box.run("echo", "anew").stdout == b"anew\n"


def test_another_process_that_listens_in_the_shims_place_is_found_out(box: Commands) -> None:
    path = control_socket(box)
    aside = path.with_name("aside.sock")
    os.link(path, aside)
    argv = [sys.executable, "-c", FAKE_SHIM, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as fake:
        try:
            assert fake.stdout is not None
            assert fake.stdout.readline() == "listening\n"
            assert "another process than the box's shim" in box.refused(409, "invalid_state", "true")
            assert box.daemon.get(box.box)["status"] == "unknown"
            aside.rename(path)  # the right one is back: the next attempt proves it
            assert box.run("echo", "back").stdout == b"back\n"
            assert box.daemon.get(box.box)["status"] == "running"
        finally:
            fake.kill()
        assert "heard 37" not in fake.stdout.read(), "it was told something"


def test_a_box_without_a_channel_refuses_and_lives_on(box: Commands) -> None:
    control_socket(box).unlink()
    assert "no control channel" in box.refused(422, "unsupported", "true")
    assert box.daemon.get(box.box)["status"] == "running"
    assert box.daemon.client.stop(box.box, 1)["status"] == "stopped"


def test_a_foreign_shim_without_a_channel_refuses(daemon: Daemon) -> None:
    box = Commands(daemon, daemon.run(["serve"], engine="vm")["box_id"])
    assert "no control channel" in box.refused(422, "unsupported", "true")
    assert daemon.get(box.box)["status"] == "running"


def test_a_shim_that_hangs_is_a_timeout_and_no_stranger(box: Commands) -> None:
    shim = box.daemon.get(box.box)["pid"]
    with impatient(box.daemon):
        signal_pid(shim, 19)
        try:
            assert "may hang" in box.refused(504, "timeout", "true")
            assert box.daemon.get(box.box)["status"] == "running"
        finally:
            signal_pid(shim, 18)
    assert box.daemon.get(box.box)["pid"] == shim
    assert box.run("echo", "awake").stdout == b"awake\n"
