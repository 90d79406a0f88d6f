"""Limits: they hold where this host can enforce them, and are said or refused where it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxlited.errors import Unsupported
from tests.integration import cgroups
from tests.integration.daemon_harness import Daemon, until
from tests.integration.test_lifecycle import workload_of
from tests.integration.test_sandbox import said

HOG = "x=x; while :; do x=$x$x; done"
SPINS = ["/bin/sh", "-c", "while :; do :; done"]
ALL: dict[str, Any] = {"cpus": 0.5, "memory_mib": 64, "pids": 20}
STRICT = "[limits]\nmode = 'strict'\n"
WITHOUT_CGROUPS = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /sys/fs/cgroup && exec "$@"', "sh"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon.start()


@pytest.fixture
def enforcing(shared: Daemon) -> Daemon:
    """A daemon that can enforce everything here."""
    missing = {"cpus", "memory", "pids"} - set(shared.client.config()["capabilities"]["limits"])
    if missing:
        pytest.skip(f"nothing here can enforce {', '.join(sorted(missing))}: needs root or a delegated cgroup")
    return shared


def powerless(config: str | None = None) -> Daemon:
    """A daemon on a host where nothing can be enforced, whoever runs the tests."""
    daemon = Daemon(config)
    if os.geteuid() == 0:
        daemon.prefix = WITHOUT_CGROUPS
    return daemon


def setting(pid: int, limit: str, *names: str) -> list[str]:
    """What is written in the first of these files (v2, then v1) for a process."""
    directory = cgroups.of_process(pid, limit)
    assert directory is not None
    return next((directory / name).read_text().split() for name in names if (directory / name).exists())


# -- where they can be enforced


def test_limits_are_written_for_workload_and_shim(enforcing: Daemon) -> None:
    box = enforcing.run(**ALL)
    assert box["not_applied"] == []
    for pid in (box["pid"], workload_of(box["pid"])):
        assert setting(pid, "memory", "memory.max", "memory.limit_in_bytes") == [str(64 << 20)]
        assert setting(pid, "pids", "pids.max") == ["23"]  # and the three of ours
        assert setting(pid, "cpu", "cpu.max", "cpu.cfs_quota_us")[0] == "50000"
    metrics = enforcing.client.box_metrics(box["box_id"])
    assert metrics["memory_limit_bytes"] == 64 << 20
    assert 0 < metrics["memory_bytes"] <= 64 << 20
    enforcing.client.remove(box["box_id"], force=True)


def test_memory_beyond_the_limit_is_told_as_the_cause(enforcing: Daemon) -> None:
    box = enforcing.run(["/bin/sh", "-c", HOG], memory_mib=32)
    row = enforcing.wait_status(box["box_id"], "failed")
    assert (row["stop_cause"], row["exit_code"]) == ("oom", 137)
    assert "out-of-memory killer" in row["failure_reason"]
    assert "memory_mib" in row["failure_reason"]
    assert "out-of-memory" in enforcing.client.crash(box["box_id"])["user_message"]
    enforcing.client.remove(box["box_id"])


def test_memory_killer_inside_a_box_that_ends_well_is_told_as_a_warning(enforcing: Daemon) -> None:
    box = enforcing.run(["/bin/sh", "-c", f"sh -c '{HOG}'; exit 7"], memory_mib=32)
    row = enforcing.wait_status(box["box_id"], "stopped")
    assert (row["stop_cause"], row["exit_code"]) == ("exited", 7)
    assert "out-of-memory killer" in row["warning"]
    enforcing.client.remove(box["box_id"])


def test_a_kill_for_memory_is_not_blamed_on_the_next_run(enforcing: Daemon) -> None:
    script = f"test -e /root/again && kill -KILL $$; touch /root/again; {HOG}"
    box = enforcing.run(["/bin/sh", "-c", script], memory_mib=32)
    assert enforcing.wait_status(box["box_id"], "failed")["stop_cause"] == "oom"
    enforcing.client.start(box["box_id"])
    assert enforcing.wait_status(box["box_id"], "failed")["stop_cause"] == "crashed"
    enforcing.client.remove(box["box_id"])


def test_memory_of_one_box_does_not_end_another(enforcing: Daemon) -> None:
    calm, hog = enforcing.run(memory_mib=32), enforcing.run(["/bin/sh", "-c", HOG], memory_mib=32)
    enforcing.wait_status(hog["box_id"], "failed")
    assert enforcing.get(calm["box_id"])["pid"] == calm["pid"]
    for box in (calm, hog):
        enforcing.client.remove(box["box_id"], force=True)


def test_pids_limit_is_that_of_the_workload(enforcing: Daemon) -> None:
    fork = "for i in 1 2 3 4 5; do sleep 60 & done; echo all"
    assert said(enforcing, fork, pids=6).strip() == "all"
    refused = said(enforcing, fork, pids=5)
    assert "all" not in refused
    assert "Cannot fork" in refused or "Resource temporarily unavailable" in refused


@pytest.mark.parametrize("engine", ["sandbox", "process"])
def test_one_process_is_enough_for_a_workload_of_one(engine: str) -> None:
    with Daemon("[engines]\nenabled = ['sandbox', 'process']\n") as daemon:
        assert said(daemon.start(), "echo fits", pids=1, engine=engine) == "fits\n"


@pytest.mark.parametrize(("cpus", "share"), [(0.1, 0.1), (0.002, 0.002), (2.5, 2.5)])
def test_cpu_share_is_the_one_asked_for(enforcing: Daemon, cpus: float, share: float) -> None:
    box = enforcing.run(cpus=cpus)
    assert box["not_applied"] == []
    quota = setting(box["pid"], "cpu", "cpu.max", "cpu.cfs_quota_us")
    period = setting(box["pid"], "cpu", "cpu.max", "cpu.cfs_period_us")
    assert int(quota[0]) / int(period[-1]) == pytest.approx(share)
    enforcing.client.remove(box["box_id"], force=True)


def test_cpu_share_holds(enforcing: Daemon) -> None:
    box = enforcing.run(SPINS, cpus=0.2)
    directory = cgroups.of_process(box["pid"], "cpu")
    assert directory is not None

    def throttled() -> int:
        table = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
        return int(table["nr_throttled"])

    until(lambda: throttled() >= 3, "the kernel holds it back")
    enforcing.client.remove(box["box_id"], force=True)


def test_limits_hold_again_after_a_restart_of_daemon_and_box() -> None:
    with Daemon() as daemon:
        daemon.start()
        if "memory" not in daemon.client.config()["capabilities"]["limits"]:
            pytest.skip("nothing here can enforce memory: needs root or a delegated cgroup")
        box = daemon.run(memory_mib=48)
        daemon.restart_after_kill()
        assert setting(box["pid"], "memory", "memory.max", "memory.limit_in_bytes") == [str(48 << 20)]
        daemon.client.restart(box["box_id"])
        again = daemon.get(box["box_id"])
        assert again["pid"] != box["pid"]
        assert setting(again["pid"], "memory", "memory.max", "memory.limit_in_bytes") == [str(48 << 20)]


def test_no_cgroup_is_left_when_the_box_and_the_daemon_are_gone() -> None:
    with Daemon() as daemon:
        daemon.start()
        box = daemon.run(**ALL)
        left = [directory / box["box_id"] for directory in cgroups.parents(daemon.home)]
        daemon.client.remove(box["box_id"], force=True)
        assert not [directory for directory in left if directory.exists()]
        assert daemon.stop() == 0
        assert list(cgroups.parents(daemon.home)) == []


# -- where nothing can be enforced


def test_what_is_not_applied_is_said_and_the_box_starts() -> None:
    with powerless() as daemon:
        box = daemon.start().run(**ALL)
        assert box["status"] == "running"
        assert [reason.split(":")[0] for reason in box["not_applied"]] == ["cpus", "memory", "pids"]
        assert all("cgroup" in reason for reason in box["not_applied"])
        assert daemon.get(box["box_id"])["not_applied"] == box["not_applied"]
        assert daemon.run()["not_applied"] == []


def test_strict_refuses_with_what_to_do() -> None:
    with powerless(STRICT) as daemon:
        daemon.start()
        with pytest.raises(Unsupported, match=r"cpus, memory, pids.*strict.*leave the limit out, or delegate a cgroup"):
            daemon.create(**ALL)
        assert daemon.run()["status"] == "running"


def test_strict_refuses_a_limit_that_turns_out_not_to_hold(enforcing: Daemon) -> None:
    """Half a thousandth of a processor is less than the kernel takes."""
    box = enforcing.run(cpus=0.0005)
    assert [reason.split(":")[0] for reason in box["not_applied"]] == ["cpus"]
    with Daemon(STRICT) as daemon:
        box = daemon.start().create(cpus=0.0005)
        with pytest.raises(Unsupported, match=r"cpus:.*Invalid argument"):
            daemon.client.start(box["box_id"])
        assert daemon.get(box["box_id"])["status"] == "failed"
        assert daemon.shims() == []


def test_a_box_sees_nothing_of_the_hosts_cgroups(shared: Daemon) -> None:
    text = said(shared, "cat /proc/self/cgroup; ls /sys 2>&1")
    assert {line.rpartition(":")[2] for line in text.splitlines() if line[:1].isdigit()} == {"/"}
    assert "No such file" in text
    assert Path("/sys/fs/cgroup").exists()
