"""What a box uses up: processes, memory, log. Bounded where there is a limit, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cgroups import of_process
from tests.integration.daemon_harness import Daemon, until
from tests.integration.processes import runs

FORKS = "f() { f | f & }; f; f; f; sleep 987654"
FILLS = "dd if=/dev/zero of={0} bs=1M count=300 2>/dev/null; echo survived"


@pytest.fixture(scope="module")
def enforcing() -> Iterator[Daemon]:
    with Daemon("[logs]\nmax_bytes = 65536\nkeep = 1\n") as daemon:
        daemon.start()
        missing = {"memory", "pids"} - set(daemon.client.config()["capabilities"]["limits"])
        if missing:
            pytest.skip(f"nothing here can enforce {', '.join(sorted(missing))}: needs root or a delegated cgroup")
        yield daemon


@pytest.mark.parametrize("how", ["workload", "command"])
def test_a_fork_bomb_is_bounded_and_goes_with_its_box(enforcing: Daemon, how: str) -> None:
    box = enforcing.run(["/bin/bash", "-c", FORKS] if how == "workload" else None, pids=40)
    directory = of_process(box["pid"], "pids")
    assert directory is not None
    if how == "command":
        enforcing.client.exec(box["box_id"], "/bin/bash", "-c", FORKS)
    until(lambda: _refused(directory) or len(_members(directory)) >= 40, "the limit is reached")
    members = _members(directory)
    assert len(members) <= 43  # with the three of ours
    other = enforcing.run()
    assert other["status"] == "running"
    enforcing.client.remove(box["box_id"], force=True)
    assert not [pid for pid in members if runs(pid)]
    enforcing.check_oracle({other["box_id"]: "running"})


def _members(directory: object) -> list[int]:
    with open(f"{directory}/cgroup.procs") as file:
        return [int(line) for line in file]


def _refused(directory: object) -> int:
    """How many forks the kernel refused."""
    with open(f"{directory}/pids.events") as file:
        return int(file.read().split()[1])


@pytest.mark.parametrize("path", ["/dev/shm/x", "/x", "/run/x"])
def test_what_a_box_writes_to_memory_counts_as_its_memory(enforcing: Daemon, path: str) -> None:
    box = enforcing.run(["/bin/sh", "-c", FILLS.format(path)], memory_mib=48)
    row = enforcing.wait_status(box["box_id"], "failed", "stopped")
    assert row["stop_cause"] == "oom" or "out-of-memory" in (row["warning"] or "")
    enforcing.client.remove(box["box_id"])


def test_memory_that_a_command_uses_up_is_the_boxs(enforcing: Daemon) -> None:
    box = enforcing.run(memory_mib=48)
    hog = "sh -c 'x=x; while :; do x=$x$x; done'; echo rc $?"
    assert b"rc 137" in enforcing.client.run_command(box["box_id"], ["/bin/sh", "-c", hog]).stdout
    assert enforcing.get(box["box_id"])["status"] == "running"
    enforcing.client.remove(box["box_id"], force=True)


def test_a_flood_of_log_is_bounded_on_disk_and_the_box_can_be_stopped(enforcing: Daemon) -> None:
    box = enforcing.run(["/bin/sh", "-c", "exec yes 0123456789abcdef0123456789abcdef"])
    logs = enforcing.box_dir(box["box_id"]) / "logs"
    until((logs / "console.log.1").exists, "the log is rotated")
    for _ in range(20):
        assert sum(_size(entry) for entry in logs.iterdir()) <= 3 * 65536
    assert enforcing.client.stop(box["box_id"])["status"] == "stopped"
    enforcing.client.remove(box["box_id"])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it was rotated meanwhile, and counts under its next name
        return 0
