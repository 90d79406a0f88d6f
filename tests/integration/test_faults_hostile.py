"""Rows 27 to 30 of the fault list: what a box or a client plants to mislead the daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from boxlited.errors import InvalidArgument, StorageError
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, until
from tests.integration.database import edit_rows, lose_database
from tests.integration.processes import spawner_of, spawners_of, start_time

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.3\n"


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


@pytest.mark.parametrize("kind", ["fifo", "symlink", "huge", "hard link", "nested", "directory"])
def test_row_27_hostile_exit_file_is_refused_without_blocking(daemon: Daemon, kind: str) -> None:
    other, box = daemon.run(), daemon.run()
    path = daemon.box_dir(box["box_id"]) / "exit"
    outside = daemon.root / "outside"
    outside.write_text('{"type":"error","exit_code":1,"message":"from outside"}')
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(outside)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(10 << 30)
    elif kind == "hard link":
        path.hardlink_to(outside)
    elif kind == "nested":
        path.write_text("[" * 60000)
    else:
        path.mkdir()
    kill_pid(box["pid"])
    row = daemon.wait_status(box["box_id"], "failed")
    assert "exit file was refused" in row["failure_reason"]
    assert "from outside" not in row["failure_reason"]
    assert daemon.client.start(box["box_id"])["status"] == "running"
    daemon.check_oracle({other["box_id"]: "running", box["box_id"]: "running"})
    assert outside.exists()


@pytest.mark.parametrize("name", ["shim.stderr", "logs/console.log"])
def test_row_27_a_link_in_the_place_of_a_log_is_never_written_through(daemon: Daemon, name: str) -> None:
    box, outside = daemon.create(["/bin/sh", "-c", "echo mine; exit 0"]), daemon.root / "outside"
    outside.write_text("precious")
    planted = daemon.box_dir(box["box_id"]) / name
    planted.symlink_to(outside)
    if name == "shim.stderr":
        with pytest.raises(StorageError, match=name):
            daemon.client.start(box["box_id"])
    else:
        daemon.client.start(box["box_id"])  # a box that cannot log still runs
        assert daemon.client.wait(box["box_id"], 20)["exit_code"] == 0
    assert outside.read_text() == "precious"
    planted.unlink()
    daemon.client.start(box["box_id"])
    assert daemon.client.wait(box["box_id"], 20)["exit_code"] == 0
    daemon.check_oracle({box["box_id"]: "stopped"})


LIARS = ["0", "1", "daemon", "another box's shim", "a stranger, right start time"]
SPAWNERS = [("spawner", True), ("a later spawner", True)]  # with a row, the inode tells them from a shim


# A lost database leaves pid and start time as the only evidence, and a stranger's agree with themselves.
@pytest.mark.parametrize(
    ("who", "lost_database"), [(who, lost) for who in LIARS for lost in (False, True)][:-1] + SPAWNERS
)
def test_row_28_pid_file_that_lies_is_never_obeyed(daemon: Daemon, who: str, *, lost_database: bool) -> None:
    liar, other = daemon.run(["/bin/sh", "-c", "exit 0"]), daemon.run()
    daemon.client.wait(liar["box_id"], 20)
    stranger = daemon.sentinels[0].pid
    assert daemon.process is not None
    if lost_database:
        daemon.kill9()
        lose_database(daemon)
        daemon.start()
    if who == "a later spawner":
        replace_spawner(daemon)
    spawner = spawner_of(daemon)
    ours = {
        "daemon": daemon.process.pid,
        "spawner": spawner,
        "a later spawner": spawner,
        "another box's shim": other["pid"],
    }
    pid = {"0": 0, "1": 1, **ours}.get(who, stranger)
    stamp = start_time(pid) if pid > 0 else 1
    (daemon.box_dir(liar["box_id"]) / "shim.pid").write_text(f"{pid}\n{stamp}\n")
    if who == "a stranger, right start time":
        daemon.kill9()
        edit_rows(daemon, "UPDATE boxes SET status='running', pidfs_inode=12345 WHERE box_id=?", liar["box_id"])
        daemon.start()
    daemon.client.reconcile()
    daemon.client.stop(liar["box_id"])
    daemon.client.remove(liar["box_id"], force=True)
    assert daemon.process.poll() is None
    assert is_alive(other["pid"])
    assert who.isdigit() or is_alive(pid)
    daemon.check_oracle({other["box_id"]: "running"})


def replace_spawner(daemon: Daemon) -> None:
    before = daemon.client.metrics()["spawner_restarts_total"]
    kill_pid(spawner_of(daemon))
    until(lambda: daemon.client.metrics()["spawner_restarts_total"] > before, "its death is seen")
    until(lambda: spawners_of(daemon), "there is another")


def test_row_29_hostile_text_is_escaped_and_bounded_everywhere(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    message = "\x1b]0;owned\x07\x1b[2J\nline two\u202e" + "A" * 60000
    record = {"type": "error", "exit_code": 1, "message": message, "error_kind": "engine"}
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(record)[:65000])
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps({**record, "message": message[:9000]}))
    with (daemon.box_dir(box["box_id"]) / "logs" / "console.log").open("ab") as log:
        log.write(b"\x1b[31m" + b"B" * (1 << 20) + b"\n")
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    daemon.start()
    row = daemon.get(box["box_id"])
    report = daemon.client.crash(box["box_id"])
    for text in (row["failure_reason"], report["user_message"], *report["debug_info"].split("\n")):
        assert text.isprintable(), text[:200]
        assert len(text) < 2000
    assert "\\x1b" in row["failure_reason"]
    assert "\x1b" not in daemon.log_text()
    shown = subprocess.run(
        [sys.executable, "-m", "boxlited.cli.boxctl", "ps"],
        env={**os.environ, "BOXLITED_SOCKET": str(daemon.socket), "COLUMNS": "60"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "\x1b" not in shown.stdout
    assert all(len(line) <= 60 for line in shown.stdout.splitlines())


BAD_REFS = ["%2e%2e", "..%2f..%2fetc", "a%00b", "x" * 300, "%D0%B0bcdefghijklmnop", "a/../b", "-rf", "%1b%5b2J"]


@pytest.mark.parametrize("ref", BAD_REFS)
def test_row_30_bad_box_ids_are_refused_before_any_path(daemon: Daemon, ref: str) -> None:
    before = sorted(entry.name for entry in daemon.root.rglob("*"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(daemon.socket))
        raw.sendall(f"DELETE /v1/boxes/{ref}?force=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        reply = b""
        while chunk := raw.recv(65536):
            reply += chunk
    assert reply.split(b" ")[1] in (b"400", b"404")
    assert b'"request_id"' in reply
    after = sorted(entry.name for entry in daemon.root.rglob("*"))
    assert [name for name in before if not name.startswith("boxlited.db")] == [
        name for name in after if not name.startswith("boxlited.db")
    ]


@pytest.mark.parametrize("name", ["..", "a/b", "a\0b", "x" * 300, "-x", "", "a" * 16])
def test_row_30_bad_names_are_refused(daemon: Daemon, name: str) -> None:
    with pytest.raises(InvalidArgument):
        daemon.create(name=name)
