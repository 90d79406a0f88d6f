"""The kill of a control group: one by one without `cgroup.kill`, and with all that is in groups within."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from boxlited.supervisor.cgroup import Cgroups
from tests.integration.cgroups import of_process
from tests.unit.fake_cgroups import Tree, refuse_writes


def test_kill_of_members_one_by_one_spares_who_is_no_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup").mkdir()
    tree = Tree(tmp_path / "cgroup", monkeypatch)
    tree.v1("pids")
    cgroups = tree.detect()
    (joined,) = cgroups.prepare("box", "run", cpus=None, memory_mib=None, pids=5).join
    refuse_writes(monkeypatch).add("cgroup.kill")
    with subprocess.Popen(["sleep", "60"]) as member, subprocess.Popen(["sleep", "60"]) as stranger:
        (Path(joined) / "cgroup.procs").unlink()
        (Path(joined) / "cgroup.procs").write_bytes(f"0\n1\n{member.pid}\n".encode())
        cgroups.kill("box")
        assert member.wait(10) == -signal.SIGKILL
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_in_a_group_that_a_box_made_within_its_own_is_a_leftover() -> None:
    unified = of_process(os.getpid(), "of no controller")
    if unified is None or not os.access(unified / "cgroup.procs", os.W_OK):
        pytest.skip("no cgroup v2 that this user can write")
    parent = unified / f"boxlited-test-{os.getpid()}"
    parent.mkdir()
    cgroups = Cgroups(parent, frozenset(), {})
    (joined,) = cgroups.prepare("box", "run", cpus=None, memory_mib=None, pids=None).join
    within = Path(joined) / "within"
    try:
        within.mkdir()
        with subprocess.Popen(["sleep", "60"]) as hidden:
            (within / "cgroup.procs").write_text(str(hidden.pid))
            assert cgroups.populated("box")
            cgroups.kill("box")
            assert hidden.wait(10) == -signal.SIGKILL
        assert cgroups.populated("box") is False
    finally:
        within.rmdir()
        cgroups.remove("box")
        cgroups.release()
