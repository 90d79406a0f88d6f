"""Control groups over a tree of plain files: v2 delegated, v1, both, and none; errors that a real tree gives rarely."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from boxlited.supervisor import cgroup
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.cgroup_files import v1_writes, v2_writes
from tests.unit.fake_cgroups import Tree, refuse_writes

LIMITS: dict[str, Any] = {"cpus": 0.5, "memory_mib": 64, "pids": 10}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    (tmp_path / "cgroup").mkdir()
    return Tree(tmp_path / "cgroup", monkeypatch)


def prepare(cgroups: Cgroups, **limits: Any) -> cgroup.CgroupSetup:
    return cgroups.prepare("box", "run", **{"cpus": None, "memory_mib": None, "pids": None, **limits})


def parent_of(base: Path) -> Path:
    (found,) = base.glob("boxlited-*")
    return found


# -- what is found


def test_nothing_is_supported_where_there_is_nothing(tree: Tree) -> None:
    cgroups = tree.detect()
    setup = prepare(cgroups, **LIMITS)
    assert cgroups.supports == frozenset()
    assert setup.join == ()
    assert [reason.split(":")[0] for reason in setup.not_applied] == ["cpus", "memory", "pids"]
    assert (cgroups.populated("box"), cgroups.oom_kills("box"), cgroups.usage("box")) == (None, None, {})
    cgroups.kill("box")
    cgroups.remove("box")
    cgroups.release()


def test_delegated_v2_enforces_all(tree: Tree) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    parent = parent_of(base)
    assert cgroups.supports == {"cpus", "memory", "pids"}
    assert (base / "cgroup.subtree_control").read_text() == (parent / "cgroup.subtree_control").read_text()
    assert (base / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    setup = prepare(cgroups, **LIMITS)
    assert setup == cgroup.CgroupSetup((str(parent / "box"),), ())
    written = {
        name: (parent / "box" / name).read_text() for name in ("cpu.max", "memory.max", "memory.swap.max", "pids.max")
    }
    assert written == {"cpu.max": "50000 100000", "memory.max": str(64 << 20), "memory.swap.max": "0", "pids.max": "10"}


def test_v2_without_a_limit_still_groups_the_box(tree: Tree) -> None:
    base = tree.v2()
    assert prepare(tree.detect()).join == (str(parent_of(base) / "box"),)


def test_v2_with_some_controllers_enforces_those(tree: Tree) -> None:
    tree.v2(controllers="memory io")
    cgroups = tree.detect()
    assert cgroups.supports == {"memory"}
    assert [reason.split(":")[0] for reason in prepare(cgroups, **LIMITS).not_applied] == ["cpus", "pids"]


def test_v1_gets_a_cgroup_only_where_a_limit_is_asked_for(tree: Tree) -> None:
    tree.v1("cpu", "memory", "pids")
    cgroups = tree.detect()
    assert cgroups.supports == {"cpus", "memory", "pids"}
    assert prepare(cgroups).join == ()
    (joined,) = prepare(cgroups, memory_mib=64).join
    assert (Path(joined) / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert Path(joined).parent.parent == tree.root / "memory" / "x"


def test_hybrid_joins_v2_for_the_kill_and_v1_for_the_limits(tree: Tree) -> None:
    tree.v2(at="unified", controllers="")
    tree.v1("memory")
    setup = prepare(tree.detect(), **LIMITS)
    assert [Path(path).relative_to(tree.root).parts[0] for path in setup.join] == ["unified", "memory"]
    assert [reason.split(":")[0] for reason in setup.not_applied] == ["cpus", "pids"]


def test_v2_is_preferred_where_both_have_a_controller(tree: Tree) -> None:
    tree.v2(at="unified", controllers="memory")
    tree.v1("memory")
    assert len(prepare(tree.detect(), memory_mib=64).join) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_hierarchy_that_may_not_be_written_is_left_alone(tree: Tree) -> None:
    base = tree.v2()
    base.chmod(0o555)
    assert tree.detect().supports == frozenset()
    base.chmod(0o755)


# -- this process, and others


def test_only_this_process_moves_into_the_leaf(tree: Tree) -> None:
    """Controllers cannot be enabled beside processes; whose else they are is not ours to say."""
    base = tree.v2()
    (base / "cgroup.procs").write_text(f"{os.getpid()}\n1\n99999\n")
    tree.detect()
    assert (base / "daemon" / "cgroup.procs").read_text() == str(os.getpid())


def test_processes_of_the_root_stay_there(tree: Tree) -> None:
    base = tree.v2("/")
    (base / "cgroup.type").unlink()  # as the root of the whole hierarchy
    tree.detect()
    assert not (base / "daemon").exists()


def test_a_daemon_that_starts_in_the_leaf_of_an_earlier_one_uses_its_parent(tree: Tree) -> None:
    base = tree.v2()
    first = prepare(tree.detect()).join
    tree.lines[:] = ["0::/service/daemon"]
    assert prepare(tree.detect()).join == first
    assert not (base / "daemon" / "daemon").exists()


def test_boxes_of_a_service_belong_to_the_unit_beside_it(tree: Tree) -> None:
    own = tree.v2("/system.slice/boxlited.service")
    boxes = tree.v2("/system.slice/boxlited-boxes.service")
    tree.lines[1:] = []
    (boxes / "cgroup.procs").write_text("4242\n")
    cgroups = tree.detect()
    assert cgroups.supports == {"cpus", "memory", "pids"}
    assert (boxes / "holder" / "cgroup.procs").read_text() == "4242"
    assert Path(prepare(cgroups, **LIMITS).join[0]).parent == parent_of(boxes)
    assert (own / "cgroup.subtree_control").read_text() == "", "or the next daemon could not be put there"
    assert not (own / "daemon").exists()
    assert not (boxes / "daemon").exists()


def test_service_without_a_unit_for_its_boxes_can_be_started_again_and_says_what_it_lacks(tree: Tree) -> None:
    own = tree.v2("/system.slice/boxlited.service")
    cgroups = tree.detect()
    assert (own / "cgroup.subtree_control").read_text() == ""
    setup = prepare(cgroups, **LIMITS)
    assert setup.join == (str(parent_of(own) / "box"),)
    assert len(setup.not_applied) == 3


def test_service_whose_daemon_is_put_into_a_leaf_uses_the_unit_itself(tree: Tree) -> None:
    """DelegateSubgroup=daemon, from systemd 254 on."""
    own = tree.v2("/system.slice/boxlited.service")
    tree.lines[:] = ["0::/system.slice/boxlited.service/daemon"]
    assert tree.detect().supports == {"cpus", "memory", "pids"}
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_two_homes_do_not_share(tree: Tree) -> None:
    base = tree.v2()
    tree.detect()
    Cgroups.detect(Path("/other/home"), tree.root, tree.own)
    assert len(list(base.glob("boxlited-*"))) == 2


# -- a limit that fails


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    return refuse_writes(monkeypatch)


def test_a_refused_write_is_said_and_the_others_hold(tree: Tree, refusing: set[str]) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    refusing.add("cpu.max")
    assert prepare(cgroups, **LIMITS).not_applied == ("cpus: cpu.max: Invalid argument",)
    assert (parent_of(base) / "box" / "pids.max").read_text() == "10"


def test_missing_swap_accounting_is_no_missing_limit(tree: Tree, refusing: set[str]) -> None:
    tree.v1("memory")
    cgroups = tree.detect()
    refusing.add("memory.memsw.limit_in_bytes")
    assert prepare(cgroups, memory_mib=64).not_applied == ()


def test_controllers_that_cannot_be_enabled_are_not_supported(tree: Tree, refusing: set[str]) -> None:
    tree.v2()
    refusing.add("cgroup.subtree_control")
    assert tree.detect().supports == frozenset()


@pytest.mark.parametrize(
    ("cpus", "quota", "period"),
    [(1, 100_000, 100_000), (0.01, 1000, 100_000), (0.009, 9000, 1_000_000), (64, 6_400_000, 100_000)],
)
def test_cpu_shares(cpus: float, quota: int, period: int) -> None:
    assert v2_writes("cpus", cpus) == [("cpu.max", f"{quota} {period}")]
    assert v1_writes("cpus", cpus) == [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", str(quota))]


def test_no_more_pids_than_the_kernel_takes() -> None:
    assert v1_writes("pids", 1 << 23) == v2_writes("pids", 1 << 23) == [("pids.max", str(1 << 22))]


# -- a box's cgroup


def test_a_new_run_begins_with_new_counters(tree: Tree) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    prepare(cgroups, memory_mib=64)
    events = parent_of(base) / "box" / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\n")
    assert cgroups.oom_kills("box") == 2
    prepare(cgroups, memory_mib=64)
    assert not events.exists()


def test_kills_are_counted_in_v1(tree: Tree) -> None:
    tree.v1("memory")
    cgroups = tree.detect()
    (joined,) = prepare(cgroups, memory_mib=64).join
    (Path(joined) / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert cgroups.oom_kills("box") == 1


@pytest.mark.parametrize("content", ["", "oom_kill\n", "oom_kill many\n", "\0\0"])
def test_a_counter_that_makes_no_sense_is_not_known(tree: Tree, content: str) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    prepare(cgroups)
    (parent_of(base) / "box" / "memory.events").write_text(content)
    assert cgroups.oom_kills("box") is None


def test_populated_is_what_any_of_them_says(tree: Tree) -> None:
    base = tree.v2(at="unified", controllers="")
    tree.v1("memory")
    cgroups = tree.detect()
    assert cgroups.populated("box") is None
    joined = prepare(cgroups, memory_mib=64).join
    assert cgroups.populated("box") is False
    (Path(joined[1]) / "cgroup.procs").write_text("123\n")
    assert cgroups.populated("box") is True
    assert base.exists()


@pytest.mark.parametrize("populated", [0, 1])
def test_populated_counts_the_groups_within_where_the_kernel_does(tree: Tree, populated: int) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    prepare(cgroups)
    (parent_of(base) / "box" / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    assert cgroups.populated("box") is bool(populated)


def test_usage_is_what_is_counted(tree: Tree) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    prepare(cgroups)
    box = parent_of(base) / "box"
    (box / "memory.current").write_text("4096\n")
    (box / "cpu.stat").write_text("usage_usec 77\nuser_usec 1\n")
    assert cgroups.usage("box") == {"memory_bytes": 4096, "cpu_usec": 77}


def test_kill_asks_the_kernel_where_it_can(tree: Tree) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    prepare(cgroups)
    (parent_of(base) / "box" / "cgroup.kill").write_text("")
    cgroups.kill("box")
    assert (parent_of(base) / "box" / "cgroup.kill").read_text() == "1"


def test_remove_leaves_what_is_populated_for_the_next_try(tree: Tree) -> None:
    base = tree.v2()
    cgroups = tree.detect()
    box = Path(prepare(cgroups).join[0])
    (box / "cgroup.procs").write_text("123\n")
    cgroups.remove("box")
    cgroups.release()
    assert box.exists()
    (box / "cgroup.procs").write_text("")
    cgroups.remove("box")
    cgroups.release()
    assert not list(base.glob("boxlited-*"))


def test_tidying_removes_what_is_empty_and_of_no_running_box(tree: Tree) -> None:
    """What a daemon left that was killed between a death and the removal, and nothing else."""
    base = tree.v2()
    tree.v1("cpu", "memory", "pids")
    cgroups = tree.detect()
    for name in ("gone", "running", "filled"):
        cgroups.prepare(name, "run", cpus=0.5, memory_mib=64, pids=10)
    (parent_of(base) / "filled" / "cgroup.procs").write_text("4242\n")
    cgroups.tidy({"running"})
    assert sorted(path.name for path in parent_of(base).iterdir() if path.is_dir()) == ["filled", "running"]
    cgroups.tidy(())
    assert [path.name for path in parent_of(base).iterdir() if path.is_dir()] == ["filled"]


def test_tidying_without_cgroups_does_nothing(tree: Tree) -> None:
    tree.detect().tidy(())
