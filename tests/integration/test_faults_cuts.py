"""Rows 7 and 8: the daemon (or spawner, hook, shim) is killed at every named point of every operation."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from boxlited.client import Client
from boxlited.errors import BoxlitedError
from tests.faults.named import in_the_source
from tests.integration import foreign_shim
from tests.integration.daemon_harness import FOREVER, Daemon, is_alive, kill_pid, reader_at, signal_pid, until
from tests.integration.processes import children, spawner_of

CREATE = ("create.after_directory", "create.after_row")
START = ("start.after_intent", "start.after_spawn", "start.after_ready")
STOP = ("stop.after_intent", "stop.after_signal", "apply.before_write", "apply.after_write")
REMOVE = ("remove.after_intent", "remove.after_rename", "remove.after_delete")
BELOW = (
    "spawner.before_fork",
    "spawner.after_fork",
    "hook.before_pid_file",
    "hook.after_pid_file",
    "shim.before_workload",
    "shim.after_workload",
    "workload.before_leash",
    "workload.after_leash",
)
END = ("shim.before_exit_file", "apply.await_evidence")


def test_the_points_named_here_are_in_the_program() -> None:
    """That every point of the program is cut, here or elsewhere, is for tests/faults to say."""
    assert {*CREATE, *START, *STOP, *REMOVE, *BELOW, *END} <= in_the_source()


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


def cut(daemon: Daemon, point: str) -> None:
    """Have the daemon die at the point."""
    daemon.set_failpoints(f"{point}=kill")


def killed_during(daemon: Daemon, point: str, act: Callable[[], object]) -> None:
    """The daemon dies at the point in the midst of a request, which is not answered; there is a new one afterwards."""
    cut(daemon, point)
    with pytest.raises(BoxlitedError):
        act()
    daemon.wait_killed()
    daemon.start()


@pytest.mark.parametrize("point", CREATE)
def test_row_07_killed_during_create(daemon: Daemon, point: str) -> None:
    old = daemon.create()
    killed_during(daemon, point, lambda: daemon.create(name="fresh"))
    daemon.check_oracle({old["box_id"]: "configured"})
    box = daemon.create(name="again")
    assert daemon.client.start(box["box_id"])["status"] == "running"


@pytest.mark.parametrize("point", START)
@pytest.mark.parametrize("policy", ["no", "always"])
def test_row_07_killed_during_start(daemon: Daemon, point: str, policy: str) -> None:
    box = daemon.create(restart={"policy": policy})
    other = daemon.run()
    killed_during(daemon, point, lambda: daemon.client.start(box["box_id"]))
    if point != "start.after_intent" or policy == "always":
        row = daemon.wait_status(box["box_id"], "running")
    else:
        row = daemon.get(box["box_id"])
        assert (row["status"], row["desired"]) == ("configured", "stopped")
    daemon.check_oracle({box["box_id"]: row["status"], other["box_id"]: "running"})
    assert daemon.client.start(box["box_id"])["status"] == "running"


def test_row_07_a_start_cut_at_its_intent_does_not_have_the_box_deleted_before_its_time() -> None:
    """auto_delete counts from an end. The intent takes the last one out of the row, and that is not "at boot"."""
    seconds = max(60, int(time.clock_gettime(time.CLOCK_BOOTTIME)) // 2)
    with Daemon("[reconcile]\nperiod_seconds = 0.1\njitter = 0.0\n") as daemon:
        daemon.start()
        box = daemon.run(auto_delete=seconds)
        daemon.client.stop(box["box_id"])
        killed_during(daemon, "start.after_intent", lambda: daemon.client.start(box["box_id"]))
        passes = daemon.client.metrics()["reconcile_passes_total"]
        until(lambda: daemon.client.metrics()["reconcile_passes_total"] >= passes + 3, "passes go on")
        daemon.check_oracle({box["box_id"]: "stopped"})


@pytest.mark.parametrize("point", STOP)
def test_row_08_killed_during_stop(daemon: Daemon, point: str) -> None:
    box, other = daemon.run(), daemon.run()
    killed_during(daemon, point, lambda: daemon.client.stop(box["box_id"]))
    row = daemon.wait_status(box["box_id"], "stopped")
    assert row["stop_cause"] == "user"
    daemon.check_oracle({box["box_id"]: "stopped", other["box_id"]: "running"})


@pytest.mark.parametrize("point", [*STOP, *START])
def test_row_08_killed_during_restart(daemon: Daemon, point: str) -> None:
    """A restart is no stop: wherever it is cut, the box runs afterwards, and it is another run."""
    box, other = daemon.run(), daemon.run()
    killed_during(daemon, point, lambda: daemon.client.restart(box["box_id"]))
    row = daemon.until_box(
        box["box_id"], lambda row: row["status"] == "running" and row["run_id"] != box["run_id"], "it runs anew"
    )
    assert row["desired"] == "running"
    daemon.check_oracle({box["box_id"]: "running", other["box_id"]: "running"})


@pytest.mark.parametrize("point", ["stop.after_intent", "apply.after_write", "start.after_intent"])
def test_row_08_a_stop_is_final_though_a_restart_was_cut_before_it(daemon: Daemon, point: str) -> None:
    box = daemon.run()
    killed_during(daemon, point, lambda: daemon.client.restart(box["box_id"]))
    daemon.client.stop(box["box_id"])
    daemon.restart_after_kill()
    assert daemon.get(box["box_id"])["desired"] == "stopped"
    daemon.check_oracle({box["box_id"]: "stopped"})


@pytest.mark.parametrize("point", REMOVE)
def test_row_07_killed_during_remove(daemon: Daemon, point: str) -> None:
    box, other = daemon.create(), daemon.run()
    killed_during(daemon, point, lambda: daemon.client.remove(box["box_id"]))
    assert box["box_id"] not in daemon.table()
    daemon.check_oracle({other["box_id"]: "running"})
    assert not [entry for entry in (daemon.home / "quarantine").iterdir() if entry.name.startswith("removed-")]


@pytest.mark.parametrize("point", ["stop.after_intent", "apply.before_write", "apply.after_write", *REMOVE])
def test_row_07_killed_during_a_forced_remove(daemon: Daemon, point: str) -> None:
    """It was not acknowledged: the box is stopped for good or gone, and the next remove works."""
    box, other = daemon.run(restart={"policy": "always"}), daemon.run()
    killed_during(daemon, point, lambda: daemon.client.remove(box["box_id"], force=True))
    until(lambda: [owner for owner, _pid in daemon.shims()] == [other["box_id"]], "its shim ends")
    if point in REMOVE:
        assert box["box_id"] not in daemon.table()
    else:
        row = daemon.wait_status(box["box_id"], "stopped")
        assert (row["stop_cause"], row["desired"]) == ("user", "stopped")
        daemon.client.remove(box["box_id"])
    daemon.check_oracle({other["box_id"]: "running"})


@pytest.mark.parametrize("point", BELOW)
def test_row_07_spawner_hook_or_shim_killed_during_start(daemon: Daemon, point: str) -> None:
    """The failpoint is hit once in each process that has it, so every start fails until it is gone."""
    cut(daemon, point)
    box = daemon.create()
    with pytest.raises(BoxlitedError):
        daemon.client.start(box["box_id"])
    row = daemon.get(box["box_id"])
    assert (row["status"], row["stop_cause"]) == ("failed", "start_failed")
    until(lambda: not daemon.shims(), "no shim is left")
    daemon.restart_after_kill()
    daemon.check_oracle({box["box_id"]: "failed"})
    assert daemon.client.start(box["box_id"])["status"] == "running"


@pytest.mark.parametrize("point", ["workload.before_leash", "workload.after_leash"])
def test_row_13_no_workload_begins_when_its_shim_is_killed_first(point: str, tmp_path: Path) -> None:
    """Held between its fork and its exec, and no daemon there that could kill what is left: only the kernel can."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Daemon() as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": f"{point}=pause:{gate}"})
        box = daemon.create()
        asker = threading.Thread(target=_start_quietly, args=(daemon, box["box_id"]))
        asker.start()
        held = reader_at(gate)
        try:
            shim, workload = next((pid, children(pid)[0]) for _box, pid in daemon.shims() if children(pid))
            daemon.kill9()
            asker.join()
            kill_pid(shim)
            if point == "workload.after_leash":
                until(lambda: not is_alive(workload), "the kernel ends what is held there")
        finally:
            os.close(held)
        until(lambda: not is_alive(workload), "it sees that it is alone, and ends")
        daemon.start()
        assert daemon.get(box["box_id"])["status"] in ("stopped", "failed")
        daemon.check_oracle({box["box_id"]: None})


def _start_quietly(daemon: Daemon, box_id: str) -> None:
    with suppress(BoxlitedError), Client(daemon.socket) as client:
        client.start(box_id)


def test_row_09_shim_killed_before_it_recorded_the_end_of_its_workload(daemon: Daemon) -> None:
    cut(daemon, "shim.before_exit_file")
    box, other = daemon.run(["/bin/sh", "-c", "exit 0"]), daemon.run()
    row = daemon.wait_status(box["box_id"], "failed")
    assert (row["stop_cause"], row["exit_code"]) == ("shim_killed", 137)
    assert "killed by SIGKILL" in row["failure_reason"]
    daemon.check_oracle({box["box_id"]: "failed", other["box_id"]: "running"})


def test_row_10_daemon_killed_between_a_death_and_its_record() -> None:
    config = f"[engines.external.vm]\ncommand = {json.dumps([sys.executable, '-I', foreign_shim.__file__])}\n"
    with Daemon(config) as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": "apply.await_evidence=kill"})
        box, other = daemon.run(["leave"], engine="vm"), daemon.run()
        signal_pid(box["pid"], signal.SIGUSR1)
        daemon.wait_killed()
        record = {"type": "exited", "exit_code": 5, "run_id": box["run_id"]}
        (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(record))
        daemon.start()
        row = daemon.get(box["box_id"])
        assert (row["status"], row["exit_code"]) == ("stopped", 5)
        daemon.check_oracle({box["box_id"]: "stopped", other["box_id"]: "running"})


def test_row_07_daemon_killed_while_the_hook_is_held(tmp_path: Path) -> None:
    """The new daemon gets the lock only after the fork in flight has written its shim.pid."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Daemon() as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": f"hook.before_pid_file=pause:{gate}"})
        box = daemon.create(FOREVER)
        spawner = spawner_of(daemon)
        asker = threading.Thread(target=_start_quietly, args=(daemon, box["box_id"]))
        asker.start()
        held = reader_at(gate)
        try:
            assert daemon.process is not None
            daemon.kill9()
            asker.join()
            until(lambda: not is_alive(spawner), "the spawner follows its daemon")
            assert _is_locked(daemon.home / "boxlited.lock"), "the fork in flight does not hold the home"
            daemon.launch()
            until(lambda: _has_open(daemon, daemon.home / "boxlited.lock"), "the new daemon has come to the lock")
            assert daemon.shims() == []
        finally:
            os.close(held)
        daemon.wait_ready()
        row = daemon.get(box["box_id"])  # the very first answer
        assert (row["status"], [pid for _box, pid in daemon.shims()]) == ("running", [row["pid"]])
        assert "a start was interrupted" not in daemon.log_text()
        daemon.check_oracle({box["box_id"]: "running"})


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _has_open(daemon: Daemon, path: Path) -> bool:
    assert daemon.process is not None
    for fd in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it opens and closes files at the same time
            if os.readlink(fd) == str(path):
                return True
    return False
