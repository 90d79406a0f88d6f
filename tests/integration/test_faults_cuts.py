"""Rows 7 and 8: the daemon (or spawner, hook, shim) is killed at every named point of every operation."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from boxlited.errors import BoxlitedError
from tests.faults.named import in_the_source
from tests.integration.daemon_harness import FOREVER, Daemon, until

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
    "shim.before_exit_file",
)


def test_the_points_named_here_are_in_the_program() -> None:
    """That every point of the program is cut, here or elsewhere, is for tests/faults to say."""
    assert {*CREATE, *START, *STOP, *REMOVE, *BELOW} <= in_the_source()


def cut(daemon: Daemon, point: str) -> None:
    """Restart the daemon so that it dies at the point."""
    daemon.kill9()
    daemon.start({"BOXLITED_FAILPOINTS": f"{point}=kill"})


@pytest.mark.parametrize("point", CREATE)
def test_row_07_killed_during_create(point: str) -> None:
    with Daemon() as daemon:
        daemon.start()
        old = daemon.create()
        cut(daemon, point)
        with pytest.raises(BoxlitedError):
            daemon.create(name="fresh")
        daemon.wait_killed()
        daemon.start()
        daemon.check_oracle({old["box_id"]: "configured"})
        box = daemon.create(name="again")
        assert daemon.client.start(box["box_id"])["status"] == "running"


@pytest.mark.parametrize("point", START)
@pytest.mark.parametrize("policy", ["no", "always"])
def test_row_07_killed_during_start(point: str, policy: str) -> None:
    with Daemon() as daemon:
        daemon.start()
        box = daemon.create(restart={"policy": policy})
        other = daemon.run()
        cut(daemon, point)
        with pytest.raises(BoxlitedError):
            daemon.client.start(box["box_id"])
        daemon.wait_killed()
        daemon.start()
        if point != "start.after_intent" or policy == "always":
            row = daemon.wait_status(box["box_id"], "running")
        else:
            row = daemon.get(box["box_id"])
            assert (row["status"], row["desired"]) == ("configured", "stopped")
        daemon.check_oracle({box["box_id"]: row["status"], other["box_id"]: "running"})
        assert daemon.client.start(box["box_id"])["status"] == "running"


@pytest.mark.parametrize("point", STOP)
def test_row_08_killed_during_stop(point: str) -> None:
    with Daemon() as daemon:
        daemon.start()
        box, other = daemon.run(), daemon.run()
        cut(daemon, point)
        with pytest.raises(BoxlitedError):
            daemon.client.stop(box["box_id"])
        daemon.wait_killed()
        daemon.start()
        row = daemon.wait_status(box["box_id"], "stopped")
        assert row["stop_cause"] == "user"
        daemon.check_oracle({box["box_id"]: "stopped", other["box_id"]: "running"})


@pytest.mark.parametrize("point", REMOVE)
def test_row_07_killed_during_remove(point: str) -> None:
    with Daemon() as daemon:
        daemon.start()
        box, other = daemon.create(), daemon.run()
        cut(daemon, point)
        with pytest.raises(BoxlitedError):
            daemon.client.remove(box["box_id"])
        daemon.wait_killed()
        daemon.start()
        assert box["box_id"] not in daemon.table()
        daemon.check_oracle({other["box_id"]: "running"})
        assert not [entry for entry in (daemon.home / "quarantine").iterdir() if entry.name.startswith("removed-")]


@pytest.mark.parametrize("point", [name for name in BELOW if name != "shim.before_exit_file"])
def test_row_07_spawner_hook_or_shim_killed_during_start(point: str) -> None:
    """The failpoint is hit once in each process that has it, so every start fails until it is gone."""
    with Daemon() as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": f"{point}=kill"})
        box = daemon.create()
        with pytest.raises(BoxlitedError):
            daemon.client.start(box["box_id"])
        row = daemon.get(box["box_id"])
        assert (row["status"], row["stop_cause"]) == ("failed", "start_failed")
        until(lambda: not daemon.shims(), "no shim is left")
        daemon.restart_after_kill()
        daemon.check_oracle({box["box_id"]: "failed"})
        assert daemon.client.start(box["box_id"])["status"] == "running"


def test_row_07_daemon_killed_while_the_hook_is_held(tmp_path: Path) -> None:
    """The new daemon gets the lock only after the fork in flight has written its shim.pid."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Daemon() as daemon:
        daemon.start({"BOXLITED_FAILPOINTS": f"hook.before_pid_file=pause:{gate}"})
        box = daemon.create(FOREVER)

        def ask() -> None:
            with suppress(BoxlitedError):
                daemon.client.start(box["box_id"])

        asker = threading.Thread(target=ask)
        asker.start()
        with gate.open("w"):  # opens once the hook is held there
            assert daemon.process is not None
            daemon.process.kill()
            daemon.process.wait()
            asker.join()
            daemon.drop_client()
            daemon.launch()
            until(lambda: _waits_for_the_lock(daemon), "the new daemon waits for the lock")
            assert daemon.shims() == []
        daemon.wait_ready()
        row = daemon.wait_status(box["box_id"], "running")
        assert [pid for owner, pid in daemon.shims() if owner == box["box_id"]] == [row["pid"]]
        daemon.check_oracle({box["box_id"]: "running"})


def _waits_for_the_lock(daemon: Daemon) -> bool:
    """It has the lock file open and has not come further than that."""
    assert daemon.process is not None
    fds = Path(f"/proc/{daemon.process.pid}/fd")
    for fd in fds.iterdir():
        with suppress(FileNotFoundError):  # it opens and closes files at the same time
            if os.readlink(fd) == str(daemon.home / "boxlited.lock"):
                return True
    return False
