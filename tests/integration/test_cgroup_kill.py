"""The kill of a control group without `cgroup.kill`: of its members, one by one."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

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
