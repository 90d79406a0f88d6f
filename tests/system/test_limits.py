"""Limits through a delegated control group of version 2: they are in the kernel's files, and they bite."""

from __future__ import annotations

import pytest

from tests.system.boxes import Boxes, Row
from tests.system.guest import Guest

pytestmark = pytest.mark.timeout(600)

HOG = ["/bin/sh", "-c", "x=x; while :; do x=$x$x; done"]
FORKS = ["/bin/sh", "-c", "for n in 1 2 3 4 5 6; do sleep 60 & done; echo all of them"]
OURS = 3  # processes of the shim and the sandbox beside the workload's


def limit(guest: Guest, box: Row, name: str) -> str:
    """A file of the control group that a box's shim is in."""
    return guest.say(f"cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{box['pid']}/cgroup)/{name}")


def test_the_guest_has_nothing_but_version_2(guest: Guest) -> None:
    assert guest.say("stat -fc %T /sys/fs/cgroup") == "cgroup2fs"
    assert guest.say("cat /proc/1/comm") == "systemd"


def test_limits_are_in_the_files_of_the_kernel(guest: Guest, boxes: Boxes) -> None:
    box = boxes.run(memory_mib=64, pids=20, cpus=0.5)
    assert box["not_applied"] == []
    assert limit(guest, box, "memory.max") == str(64 << 20)
    assert limit(guest, box, "pids.max") == str(20 + OURS)
    assert limit(guest, box, "cpu.max") == "50000 100000"
    places = {guest.say(f"cat /proc/{pid}/cgroup") for pid, _started in boxes.processes(box)}
    assert len(places) == 1, "shim and workload are in one group"
    assert places.pop().startswith("0::/system.slice/boxlited-boxes.service/")


def test_limits_hold_after_the_daemon_was_replaced(guest: Guest, boxes: Boxes) -> None:
    old = boxes.run(memory_mib=64, pids=20, cpus=0.5)
    guest.run("systemctl restart boxlited")
    new = boxes.run(memory_mib=64, pids=20, cpus=0.5)
    assert new["not_applied"] == []
    for box in (old, new):
        found = [limit(guest, box, name) for name in ("memory.max", "pids.max", "cpu.max")]
        assert found == [str(64 << 20), str(20 + OURS), "50000 100000"]


def test_box_that_takes_too_much_memory_is_killed_and_says_why(guest: Guest, boxes: Boxes) -> None:
    calm, hog = boxes.run(memory_mib=64), boxes.run(HOG, memory_mib=48)
    row = boxes.ended(hog["box_id"])
    assert (row["status"], row["stop_cause"], row["exit_code"]) == ("failed", "oom", 137)
    assert "memory_mib" in row["failure_reason"]
    assert "out-of-memory" in boxes.ask("GET", f"/v1/boxes/{hog['box_id']}/crash")["user_message"]
    assert "oom-kill:constraint=CONSTRAINT_MEMCG" in guest.say("journalctl -q -k -b --no-pager")
    assert boxes.get(calm["box_id"])["run_id"] == calm["run_id"]
    assert guest.unit("ActiveState", "Result") == {"ActiveState": "active", "Result": "success"}


def test_box_that_dies_of_memory_while_the_daemon_is_away_says_why(guest: Guest, boxes: Boxes) -> None:
    waits = ["/bin/sh", "-c", f"until test -e /root/go; do sleep 0.1; done; {HOG[2]}"]
    box = boxes.run(waits, memory_mib=48)
    workload = next(pid for (pid, _started), name in boxes.processes(box).items() if name == "sh")
    guest.run("systemctl stop boxlited")
    guest.run(f"nsenter -t {workload} -m touch /root/go")
    guest.until(lambda: box["pid"] not in guest.processes(), "the shim of the box ends")
    guest.run("systemctl start boxlited")
    row = boxes.ended(box["box_id"])
    assert (row["status"], row["stop_cause"]) == ("failed", "oom")


def test_box_cannot_have_more_processes_than_it_was_given(boxes: Boxes) -> None:
    box = boxes.run(FORKS, pids=4)
    assert boxes.ended(box["box_id"])["exit_code"] != 0
    assert "all of them" not in boxes.console(box["box_id"])


def test_workload_of_a_root_daemon_has_no_capabilities(guest: Guest, boxes: Boxes) -> None:
    box = boxes.run()
    workload = max(pid for (pid, _started), name in boxes.processes(box).items() if name == "sleep")
    status = guest.say(f"grep -E '^(Cap(Eff|Prm|Bnd)|NoNewPrivs)' /proc/{workload}/status").split()
    assert status == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]


def test_workload_and_commands_have_no_protection_from_the_memory_killer(guest: Guest, boxes: Boxes) -> None:
    """The daemon's unit is protected; were its boxes, the host would rather kill anything else."""
    box = boxes.run()
    boxes.ask("POST", f"/v1/boxes/{box['box_id']}/exec", {"command": "sleep", "args": ["987657"]})
    scores = {
        guest.say(f"cat /proc/{pid}/oom_score_adj")
        for (pid, _started), name in boxes.processes(box).items()
        if name == "sleep"
    }
    assert scores == {"0"}
    assert guest.say(f"cat /proc/{guest.main_pid()}/oom_score_adj") == "-900"
