"""The recovery, stop and start promises of the seed, one test each, under the seed's own names."""

from __future__ import annotations

import json

import pytest

from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, until
from tests.integration.database import edit_rows
from tests.integration.processes import start_time

ABORTED = {"type": "signal", "exit_code": 134, "signal": "SIGABRT"}


CONFIG = "[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n"


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


def kill_both(daemon: Daemon, shim: int) -> None:
    daemon.kill9()
    kill_pid(shim)
    until(lambda: not is_alive(shim), "the shim ends")


def starts_of(daemon: Daemon, box_id: str) -> int:
    with daemon.client.events(since=0, follow=False) as events:
        return sum(event["kind"] == "starting" and event["box_id"] == box_id for event in events)


def test_recovery_marks_box_failed_when_exit_file_present(daemon: Daemon) -> None:
    box = daemon.run()
    kill_both(daemon, box["pid"])
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(ABORTED))
    daemon.start()
    row = daemon.get(box["box_id"])
    assert (row["status"], row["pid"]) == ("failed", None)
    assert "SIGABRT" in row["failure_reason"]
    assert json.loads((daemon.box_dir(box["box_id"]) / "exit").read_text()) == ABORTED  # stays in the active slot
    assert not (daemon.box_dir(box["box_id"]) / "shim.pid").exists()
    daemon.check_oracle({box["box_id"]: "failed"})


def test_a_failure_that_was_reset_stays_so_beside_the_exit_file_that_told_it(daemon: Daemon) -> None:
    """It bears no id of a run, so nothing but the row says that it was accounted for."""
    box = daemon.run()
    kill_both(daemon, box["pid"])
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(ABORTED))
    daemon.start()
    assert daemon.get(box["box_id"])["status"] == "failed"
    assert daemon.client.reset_failed(box["box_id"])["status"] == "stopped"
    daemon.client.reconcile()
    assert daemon.get(box["box_id"])["status"] == "stopped"
    daemon.restart_after_kill()
    daemon.check_oracle({box["box_id"]: "stopped"})
    assert "SIGABRT" in daemon.client.crash(box["box_id"])["user_message"]


def test_recovery_with_a_live_shim_stashes_a_stale_exit_file(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(ABORTED))
    daemon.start()
    assert (daemon.get(box["box_id"])["status"], daemon.get(box["box_id"])["pid"]) == ("running", box["pid"])
    assert not (daemon.box_dir(box["box_id"]) / "exit").exists()
    assert json.loads((daemon.box_dir(box["box_id"]) / "exit.previous").read_text()) == ABORTED
    assert "stale exit file" in daemon.log_text()
    daemon.check_oracle({box["box_id"]: "running"})


def test_successful_start_stashes_stale_exit_file(daemon: Daemon) -> None:
    box = daemon.create()
    (daemon.box_dir(box["box_id"]) / "exit").write_text(json.dumps(ABORTED))
    daemon.client.start(box["box_id"])
    assert not (daemon.box_dir(box["box_id"]) / "exit").exists()
    assert json.loads((daemon.box_dir(box["box_id"]) / "exit.previous").read_text()) == ABORTED
    daemon.client.stop(box["box_id"])
    daemon.client.start(box["box_id"])  # what the stop left is the prior life's evidence now
    previous = json.loads((daemon.box_dir(box["box_id"]) / "exit.previous").read_text())
    assert (previous["type"], previous["signal"]) == ("signal", "SIGTERM")
    daemon.check_oracle({box["box_id"]: "running"})


def test_stop_configured_does_not_spawn(daemon: Daemon) -> None:
    box = daemon.create()
    assert daemon.client.stop(box["box_id"])["status"] == "configured"
    assert starts_of(daemon, box["box_id"]) == 0
    assert not (daemon.box_dir(box["box_id"]) / "shim.pid").exists()
    assert daemon.shims() == []
    daemon.check_oracle({box["box_id"]: "configured"})


def test_stop_failed_does_not_spawn(daemon: Daemon) -> None:
    box = daemon.run(["/bin/sh", "-c", "kill -ABRT $$"], restart={"policy": "no"})
    failed = daemon.wait_status(box["box_id"], "failed")
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text("4194304\n1\n")  # the stop only cleans up
    stopped = daemon.client.stop(box["box_id"])
    assert (stopped["status"], stopped["failure_reason"]) == ("failed", failed["failure_reason"])
    assert starts_of(daemon, box["box_id"]) == 1
    assert not (daemon.box_dir(box["box_id"]) / "shim.pid").exists()
    assert daemon.shims() == []
    daemon.check_oracle({box["box_id"]: "failed"})


@pytest.mark.parametrize("whose", ["reused while it was down", "reused under a running daemon"])
def test_stop_does_not_kill_unrelated_process(daemon: Daemon, whose: str) -> None:
    """A box that its row calls running, and a pid file that names a live process with another fingerprint."""
    box = daemon.run()
    stranger = daemon.sentinels[0].pid
    kill_both(daemon, box["pid"])
    forged = f"{stranger}\n{start_time(stranger) - 1}\n"
    if whose == "reused while it was down":
        (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(forged)
        edit_rows(daemon, "UPDATE boxes SET pid = ?, pidfs_inode = NULL", stranger)
        daemon.start()
    else:
        daemon.start()
        (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(forged)
    assert daemon.client.stop(box["box_id"])["status"] in ("stopped", "failed")
    assert is_alive(stranger)
    daemon.check_oracle()
