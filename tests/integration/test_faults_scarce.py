"""Rows 20, 23 and 34 of the fault list: a full disk, a shim that does not end, and many boxes at once."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from boxlited.errors import BoxlitedError, DatabaseError, StorageError, Timeout
from tests.faults.soak_faults import doubles
from tests.integration.daemon_harness import Daemon, signal_pid, until

CONFIG = """
[engines]
enabled = ['sandbox', 'process']
[reconcile]
period_seconds = 0.2
jitter = 0.0
[stop]
default_timeout_seconds = 0.5
"""
FREEZER = Path("/sys/fs/cgroup/freezer")
MANY = 24


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


@contextmanager
def files_may_not_exceed(daemon: Daemon, size: int) -> Iterator[None]:
    """No file of the daemon's grows beyond: its writes fail, while reading, signals and memory work."""
    assert daemon.process is not None
    pid = daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(daemon: Daemon) -> Iterator[None]:
    """The home on a file system of its own, of a few megabytes."""
    daemon.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "none", daemon.home], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", daemon.home], check=True)
        shutil.rmtree(daemon.root)  # the daemon was closed before, and could not take what was mounted


def fill(disk: Path) -> Path:
    """Not a byte is free afterwards, until the file that is returned is gone."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return ballast


def traces(daemon: Daemon) -> set[str]:
    return {str(path.relative_to(daemon.home)) for name in ("boxes", "quarantine") for path in
            (daemon.home / name).iterdir()}  # fmt: skip


def served_without_a_disk(daemon: Daemon, running: str, other: str) -> None:
    """Status, signals and stops need none."""
    assert daemon.get(running)["status"] == "running"
    assert len(daemon.table()) == 2
    stopped = daemon.client.stop(running)
    assert stopped["status"] == "stopped"
    assert "not on the disk" in stopped["warning"], "what would be lost with the daemon is not simply acknowledged"
    assert daemon.client.kill(other)["status"] in ("stopped", "failed")
    assert "not on the disk" in daemon.get(other)["warning"]
    assert daemon.shims() == []


def test_row_20_with_a_full_disk_creates_fail_in_words_and_stops_work(daemon: Daemon) -> None:
    running, other = daemon.run()["box_id"], daemon.run()["box_id"]
    before = traces(daemon)
    with files_may_not_exceed(daemon, 0):
        with pytest.raises((StorageError, DatabaseError), match="cannot create the directory"):
            daemon.create()
        served_without_a_disk(daemon, running, other)
        assert traces(daemon) == before
    until(lambda: daemon.client.metrics()["pending_writes"] == 0, "what happened meanwhile is written")
    assert daemon.get(running)["warning"] is None
    daemon.check_oracle({running: "stopped", other: "stopped"})
    assert daemon.run()["status"] == "running"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a file system")
def test_row_20_on_a_disk_without_a_free_byte(tmp_path: Path) -> None:
    daemon = Daemon(CONFIG)
    with small_disk(daemon), daemon:
        daemon.start()
        running, other = daemon.run()["box_id"], daemon.run()["box_id"]
        before = traces(daemon)
        ballast = fill(daemon.home)
        for _ in range(3):
            with pytest.raises((StorageError, DatabaseError), match="free s"):
                daemon.create()
        served_without_a_disk(daemon, running, other)
        assert traces(daemon) == before
        ballast.unlink()
        until(lambda: daemon.client.metrics()["pending_writes"] == 0, "what happened meanwhile is written")
        daemon.check_oracle({running: "stopped", other: "stopped"})
        assert daemon.run()["status"] == "running"


def test_row_20_a_create_whose_commit_fails_leaves_no_directory(daemon: Daemon) -> None:
    """Neither in its place nor in quarantine: each refused create would make a full disk fuller."""
    room = 64 * 1024  # for a config, not for the log of the database, which is longer
    log = daemon.home / "db" / "boxlited.db-wal"
    boxes = []
    while log.stat().st_size < room:
        boxes.append(daemon.create()["box_id"])
    before = traces(daemon)
    with files_may_not_exceed(daemon, room), pytest.raises(DatabaseError):
        daemon.create(name="refused")
    assert traces(daemon) == before
    daemon.check_oracle(dict.fromkeys(boxes, "configured"))
    daemon.create(name="refused")


def test_row_23_a_deaf_shim_is_ended_at_the_deadline_and_nobody_else_waits(daemon: Daemon) -> None:
    deaf, other = daemon.run(), daemon.run()
    signal_pid(deaf["pid"], signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(daemon.client.stop, deaf["box_id"], 2.0)
        daemon.wait_status(deaf["box_id"], "stopping")
        assert daemon.client.stop(other["box_id"])["status"] == "stopped"
        assert daemon.run()["status"] == "running"
        assert not stopping.done()
        assert stopping.result()["status"] == "stopped"
    daemon.check_oracle({deaf["box_id"]: "stopped", other["box_id"]: "stopped"})


@pytest.mark.skipif(not os.access(FREEZER / "cgroup.procs", os.W_OK), reason="needs the freezer of cgroup v1")
def test_row_23_a_shim_that_hangs_in_the_kernel_is_stopping_until_it_has_ended(daemon: Daemon) -> None:
    """Frozen, not even SIGKILL ends it, as in state D."""
    box, other = daemon.run(), daemon.run()
    group = FREEZER / f"boxlited-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(box["pid"]))
        (group / "freezer.state").write_text("FROZEN")
        with pytest.raises(Timeout, match="did not end"):
            daemon.client.kill(box["box_id"])
        assert daemon.get(box["box_id"])["status"] == "stopping"
        with pytest.raises(BoxlitedError):
            daemon.client.start(box["box_id"])
        assert daemon.client.stop(other["box_id"])["status"] == "stopped"
    finally:
        (group / "freezer.state").write_text("THAWED")
        until(lambda: not (group / "cgroup.procs").read_text(), "it ends")
        group.rmdir()
    daemon.wait_status(box["box_id"], "stopped")
    daemon.check_oracle({box["box_id"]: "stopped", other["box_id"]: "stopped"})


def test_row_34_many_boxes_started_stopped_and_killed_at_once(daemon: Daemon) -> None:
    """For minutes, with two hundred boxes and all other faults too: `make soak`."""
    boxes = [daemon.create(engine=engine)["box_id"] for engine in ("sandbox", "process") * (MANY // 2)]
    chance = random.Random(34)

    def act(box_id: str, what: str) -> None:
        with suppress(BoxlitedError):
            if what == "stop":
                daemon.client.stop(box_id, 0.1)
            else:
                getattr(daemon.client, what)(box_id)

    with ThreadPoolExecutor(12) as pool:
        acts = []
        for _ in range(6 * MANY):
            crowded = boxes if chance.random() < 0.5 else boxes[:2]
            acts.append(pool.submit(act, chance.choice(crowded), chance.choice(("start", "start", "stop", "kill"))))
        while not all(one.done() for one in acts):
            assert list(doubles(daemon)) == []
    with ThreadPoolExecutor(12) as pool:
        assert {row["status"] for row in pool.map(daemon.client.stop, boxes)} <= {"stopped", "configured", "failed"}
    assert daemon.shims() == []
    daemon.check_oracle({})
