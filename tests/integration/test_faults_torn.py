"""Rows 19, 25 and 31 of the fault list: records that are torn, lost, of an older version, or without a row."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, until
from tests.integration.database import database, edit_rows, lose_database

CONFIG = "[engines]\nenabled = ['sandbox', 'process']\n[reconcile]\nperiod_seconds = 0.3\n"


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


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
