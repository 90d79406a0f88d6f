"""Rows 18, 21, 22, 24, 26, 32 and 33 of the fault list: the host, its limits and other processes beside a daemon."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from boxlited.errors import BoxlitedError, ResourceExhausted
from tests.integration.daemon_harness import FOREVER, Daemon, is_alive, kill_pid, signal_pid, until
from tests.integration.database import edit_rows
from tests.integration.processes import spawner_of

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
