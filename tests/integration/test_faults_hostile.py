"""Rows 18, 19, 21, 22, 24 to 33 of the fault list: what lies, is torn, or runs out."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from boxlited.errors import BoxlitedError, InvalidArgument, ResourceExhausted, StorageError
from boxlited.supervisor.pidfile import parse_start_time
from tests.integration.daemon_harness import FOREVER, Daemon, is_alive, kill_pid, signal_pid, until

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.3\n"
CLOCK_C = """
#define _GNU_SOURCE
#include <time.h>
#include <stdlib.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *ts) {
  int r = syscall(SYS_clock_gettime, id, ts);
  const char *path = getenv("BOXLITED_TEST_CLOCK");
  if (id == CLOCK_REALTIME && path) {
    FILE *f = fopen(path, "r"); long offset = 0;
    if (f) { if (fscanf(f, "%ld", &offset) != 1) offset = 0; fclose(f); }
    ts->tv_sec += offset;
  }
  return r;
}
"""


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def spawners_of(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    pids = children(daemon.process.pid)
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "boxlited-spawn" and is_alive(pid)]


def spawner_of(daemon: Daemon) -> int:
    return until(lambda: spawners_of(daemon), "there is a spawner")[0]


def start_time(pid: int) -> int:
    value = parse_start_time(Path(f"/proc/{pid}/stat").read_bytes())
    assert value is not None
    return value


def database(daemon: Daemon) -> Path:
    return daemon.home / "db" / "boxlited.db"


def edit_rows(daemon: Daemon, sql: str, *values: object) -> None:
    """Change the table while no daemon runs."""
    connection = sqlite3.connect(database(daemon))
    try:
        with connection:
            connection.execute(sql, values)
    finally:
        connection.close()


def lose_database(daemon: Daemon) -> None:
    shutil.rmtree(daemon.home / "db")
    (daemon.home / "db").mkdir()


def test_row_18_zombie_shim_counts_as_dead_and_is_reaped(daemon: Daemon) -> None:
    box = daemon.run()
    spawner = spawner_of(daemon)
    signal_pid(spawner, signal.SIGSTOP)  # it cannot reap now
    try:
        kill_pid(box["pid"])
        row = daemon.wait_status(box["box_id"], "failed")
        assert Path(f"/proc/{box['pid']}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        assert "SIGKILL" in row["failure_reason"]
    finally:
        signal_pid(spawner, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{box['pid']}").exists(), "the zombie is reaped")
    daemon.check_oracle({box["box_id"]: "failed"})


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"not a pid\n", b"-1\n", b"99999999999\n7\n"])
def test_row_19_torn_pid_file_fails_that_box_alone(daemon: Daemon, content: bytes) -> None:
    good, bad = daemon.run(), daemon.run(["/bin/sh", "-c", "exit 0"])
    daemon.client.wait(bad["box_id"], 20)
    daemon.kill9()
    (daemon.box_dir(bad["box_id"]) / "shim.pid").write_bytes(content)
    daemon.start()
    assert daemon.get(good["box_id"])["pid"] == good["pid"]
    assert daemon.get(bad["box_id"])["status"] == "stopped"
    daemon.check_oracle({good["box_id"]: "running", bad["box_id"]: "stopped"})


def test_row_19_binary_exit_file_fails_the_box_with_a_plain_reason(daemon: Daemon) -> None:
    good, bad = daemon.run(), daemon.run()
    daemon.kill9()
    (daemon.box_dir(bad["box_id"]) / "exit").write_bytes(os.urandom(200))
    kill_pid(bad["pid"])
    until(lambda: not is_alive(bad["pid"]), "the shim ends")
    daemon.start()
    row = daemon.get(bad["box_id"])
    assert row["status"] == "failed"
    assert "exit file was refused" in row["failure_reason"]
    daemon.check_oracle({good["box_id"]: "running", bad["box_id"]: "failed"})


def test_row_19_torn_box_json_does_not_keep_the_others_from_being_rebuilt(daemon: Daemon) -> None:
    good, bad = daemon.run(), daemon.create()
    daemon.kill9()
    lose_database(daemon)
    (daemon.box_dir(bad["box_id"]) / "box.json").write_bytes(b'{"box_id": "')
    daemon.start()
    row = daemon.get(good["box_id"])
    assert (row["status"], row["pid"], row["name"]) == ("running", good["pid"], good["name"])
    assert bad["box_id"] not in daemon.table()
    assert any(bad["box_id"] in entry.name for entry in (daemon.home / "quarantine").iterdir())
    daemon.check_oracle({good["box_id"]: "running"})


def test_row_19_no_start_without_rows_when_the_directories_cannot_be_looked_through(daemon: Daemon) -> None:
    """Rows are to be made of them: to go on would be to forget every box, and to quarantine it at the next look."""
    running, configured = daemon.run(), daemon.create()
    daemon.kill9()
    lose_database(daemon)
    daemon.launch({"BOXLITED_FAILPOINTS": f"scan.begin=error:{errno.EIO}"})
    assert daemon.process is not None
    assert daemon.process.wait(timeout=30) == os.EX_IOERR
    assert daemon.log_text().splitlines()[-1].startswith("boxlited: cannot look through the directories of the boxes")
    daemon.start()
    assert daemon.get(running["box_id"])["pid"] == running["pid"]
    daemon.check_oracle({running["box_id"]: "running", configured["box_id"]: "configured"})


def test_row_19_torn_wal_tail_loses_nothing_acknowledged(daemon: Daemon) -> None:
    boxes = [daemon.create()["box_id"] for _ in range(5)]
    daemon.kill9()
    wal = Path(f"{database(daemon)}-wal")
    assert wal.exists()
    with wal.open("ab") as file:
        file.write(os.urandom(5000))
    daemon.start()
    daemon.check_oracle(dict.fromkeys(boxes, "configured"))


def test_row_19_corrupt_database_is_set_aside_and_rebuilt(daemon: Daemon) -> None:
    running, configured = daemon.run(), daemon.create()
    daemon.kill9()
    for suffix in ("-wal", "-shm"):
        Path(f"{database(daemon)}{suffix}").unlink(missing_ok=True)
    database(daemon).write_bytes(b"this is no database" * 1000)
    daemon.start()
    assert list((daemon.home / "db").glob("boxlited.db.corrupt-*"))
    assert daemon.get(running["box_id"])["pid"] == running["pid"]
    daemon.check_oracle({running["box_id"]: "running", configured["box_id"]: "configured"})


def test_row_21_second_daemon_refuses_at_once_and_touches_nothing(daemon: Daemon) -> None:
    box = daemon.run()
    before = daemon.table()
    argv = [sys.executable, "-m", "boxlited.cli.boxlited", "serve", "--home", str(daemon.home)]
    second = subprocess.run(
        [*argv, "--socket", str(daemon.root / "other.sock")], capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode == 73
    assert "another boxlited" in second.stderr
    assert "Traceback" not in second.stderr
    assert not (daemon.root / "other.sock").exists()
    assert daemon.table() == before
    daemon.check_oracle({box["box_id"]: "running"})


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a clock that can be stepped")
@pytest.mark.parametrize("step", [365 * 86400, -365 * 86400])
def test_row_22_wall_clock_steps_change_nothing(step: int, tmp_path: Path) -> None:
    (tmp_path / "clock.c").write_text(CLOCK_C)
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True, timeout=60)
    offset.write_text("0")
    env = {"LD_PRELOAD": str(library), "BOXLITED_TEST_CLOCK": str(offset)}
    with Daemon(CONFIG) as daemon:
        daemon.start(env)
        box = daemon.run(auto_stop=100_000)
        ended = daemon.run(["/bin/sh", "-c", "exit 1"], auto_delete=100_000)
        daemon.client.wait(ended["box_id"], 20)
        passes = daemon.client.metrics()["reconcile_passes_total"]
        offset.write_text(str(step))
        until(lambda: daemon.client.metrics()["reconcile_passes_total"] >= passes + 3, "passes go on")
        stamp = daemon.create()["created_at"]
        year = int(box["created_at"][:4])
        assert int(stamp[:4]) in ({year + 1, year + 2} if step > 0 else {year - 1, year - 2})
        assert daemon.get(box["box_id"])["status"] == "running"
        assert daemon.get(ended["box_id"])["status"] == "stopped"
        assert daemon.client.stop(box["box_id"])["status"] == "stopped"


def test_row_24_fd_exhaustion_fails_that_start_cleanly(daemon: Daemon) -> None:
    box, old = daemon.create(), daemon.run()
    assert daemon.process is not None
    pid = daemon.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
    try:
        with pytest.raises(BoxlitedError):
            daemon.client.start(box["box_id"])
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert daemon.get(old["box_id"])["status"] == "running"
    assert daemon.client.start(box["box_id"])["status"] == "running"
    daemon.check_oracle({box["box_id"]: "running", old["box_id"]: "running"})


@pytest.mark.parametrize("spare", [3, 4, 5])  # the first that are free go to what is received, then pipe, cgroup, pidfd
def test_row_24_a_spawner_without_descriptors_fails_that_start_and_lives(daemon: Daemon, spare: int) -> None:
    box, other = daemon.create(), daemon.run()
    pid = spawner_of(daemon)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = [number for number in range(len(used) + spare + 1) if number not in used]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[spare], before[1]))
    try:
        with suppress(BoxlitedError):  # with enough of them it succeeds
            daemon.client.start(box["box_id"])
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert spawner_of(daemon) == pid
    assert daemon.client.start(box["box_id"])["status"] == "running"
    daemon.check_oracle({box["box_id"]: "running", other["box_id"]: "running"})


def test_row_24_enomem_on_fork_fails_that_start_cleanly() -> None:
    with Daemon(CONFIG) as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": "spawner.before_fork=error:12"})
        box = daemon.create()
        with pytest.raises(BoxlitedError, match="fork"):
            daemon.client.start(box["box_id"])
        assert daemon.get(box["box_id"])["status"] == "failed"
        assert daemon.client.start(box["box_id"])["status"] == "running"
        daemon.check_oracle({box["box_id"]: "running"})


def test_row_25_shim_of_an_older_version_is_adopted_and_served(daemon: Daemon) -> None:
    box = daemon.run()
    pid_file = daemon.box_dir(box["box_id"]) / "shim.pid"
    daemon.kill9()
    pid_file.write_text(f"{box['pid']}\n")  # the legacy, one-line format
    edit_rows(daemon, "UPDATE boxes SET pidfs_inode = NULL, run_id = NULL, boot_id = NULL")
    daemon.start()
    row = daemon.get(box["box_id"])
    assert (row["status"], row["pid"], row["identity"]) == ("running", box["pid"], "legacy")
    assert daemon.client.stop(box["box_id"])["status"] == "stopped"
    assert daemon.client.start(box["box_id"])["identity"] == "verified"  # the next start upgrades the file
    assert len(pid_file.read_text().split()) == 2


def test_row_25_lines_after_the_second_survive(daemon: Daemon) -> None:
    box = daemon.run()
    pid_file = daemon.box_dir(box["box_id"]) / "shim.pid"
    daemon.kill9()
    with pid_file.open("a") as file:
        file.write("services-mux-v1\n")
    daemon.start()
    assert daemon.get(box["box_id"])["identity"] == "verified"
    assert pid_file.read_text().endswith("services-mux-v1\n")


def test_row_26_nothing_answers_before_recovery_has_ended(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "n"))
    notify.settimeout(20)
    with notify, Daemon(CONFIG) as daemon:
        env = {"BOXLITED_FAILPOINTS": f"recover.begin=pause:{gate}", "NOTIFY_SOCKET": str(tmp_path / "n")}
        daemon.launch(env)
        with gate.open("w"):  # opens once the daemon waits there
            assert not daemon.socket.exists()
            notify.setblocking(False)
            with pytest.raises(BlockingIOError):
                notify.recv(4096)
            notify.settimeout(20)
        daemon.wait_ready()
        assert b"READY=1" in notify.recv(4096)


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


def test_row_31_directory_without_a_row_is_adopted_or_quarantined(daemon: Daemon) -> None:
    alive, dead = daemon.run(), daemon.create()
    daemon.kill9()
    edit_rows(daemon, "DELETE FROM boxes")
    (daemon.home / "boxes" / "not-an-id").mkdir()
    daemon.start()
    row = daemon.get(alive["box_id"])
    assert (row["status"], row["pid"], row["name"]) == ("running", alive["pid"], alive["name"])
    assert dead["box_id"] not in daemon.table()
    kept = [entry.name for entry in (daemon.home / "quarantine").iterdir()]
    assert any(name.endswith(dead["box_id"]) for name in kept)
    assert any(name.endswith("not-an-id") for name in kept)
    daemon.check_oracle({alive["box_id"]: "running"})


def test_row_32_stopped_by_the_user_and_alive_is_drained(daemon: Daemon) -> None:
    box, other = daemon.run(), daemon.run()
    daemon.kill9()
    edit_rows(
        daemon,
        "UPDATE boxes SET status='stopped', desired='stopped', stop_cause='user', ended_at=1 WHERE box_id=?",
        box["box_id"],
    )
    daemon.start()
    until(lambda: not is_alive(box["pid"]), "the orphan is drained")
    row = daemon.wait_status(box["box_id"], "stopped")
    assert row["stop_cause"] == "user"
    daemon.check_oracle({box["box_id"]: "stopped", other["box_id"]: "running"})


def test_row_33_spawner_killed_is_restarted_and_shims_live_on(daemon: Daemon) -> None:
    box = daemon.run()
    first = spawner_of(daemon)
    kill_pid(first)

    def started() -> bool:
        try:
            daemon.run(FOREVER, name="after")
        except BoxlitedError:
            with_name = [row for row in daemon.table().values() if row["name"] == "after"]
            for row in with_name:
                daemon.client.remove(row["box_id"], force=True)
            return False
        return True

    until(started, "a box can be started again")
    assert spawner_of(daemon) != first
    assert daemon.get(box["box_id"])["pid"] == box["pid"]
    kill_pid(box["pid"])  # its parent is gone, and still its end is told
    assert "SIGKILL" in daemon.wait_status(box["box_id"], "failed")["failure_reason"]
    daemon.check_oracle({box["box_id"]: "failed"})


def test_row_33_in_flight_start_fails_cleanly() -> None:
    with Daemon(CONFIG) as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": "spawner.after_fork=kill"})
        box = daemon.create()
        with pytest.raises(BoxlitedError):
            daemon.client.start(box["box_id"])
        row = daemon.get(box["box_id"])
        assert row["status"] == "failed"
        assert not [pid for owner, pid in daemon.shims() if owner == box["box_id"]]
        daemon.check_oracle({box["box_id"]: "failed"})


def test_limits_have_messages(daemon: Daemon) -> None:
    with Daemon("[limits]\nmax_boxes = 1\nmax_running = 1\n") as small:
        small.start()
        small.run()
        with pytest.raises(ResourceExhausted, match="max_boxes"):
            small.create()
