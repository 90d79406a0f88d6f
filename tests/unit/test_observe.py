"""A look at a box: what cannot be seen now is Unknown, and never taken for what is not there."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from boxlited.model import Box, BoxID, BoxSpec, BoxStatus, Desired, IdentityKind
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.exitfile import ExitInfo, write_exit_file
from boxlited.supervisor.identity import PidfdHandle
from boxlited.supervisor.kernel import ExitStatus
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.observe import EVIDENCE_WAIT_SECONDS, Observer, Sight
from boxlited.supervisor.runtime import BoxRuntime
from tests.unit.fake_kernel import FakeKernel

ID = BoxID.parse("a" * 16)
ROW = Box(
    box_id=ID, name="web", spec=BoxSpec(image="host"), status=BoxStatus.RUNNING, desired=Desired.RUNNING,
    run_id="r", pid=500, boot_id="boot-1",
)  # fmt: skip


class World:
    """A box whose shim is proven dead, and its cgroup."""

    def __init__(self, root: Path) -> None:
        home = HomeLayout(root / "home")
        self.layout = home.box(ID)
        self.layout.directory.mkdir(parents=True)
        self.layout.pid_file.write_text("500\n77\n")
        self.cgroup = root / "cgroup" / ID
        self.cgroup.mkdir(parents=True)
        (self.cgroup / "cgroup.procs").write_text("")
        (self.cgroup / "memory.events").write_text("oom_kill 0\n")
        cgroups = Cgroups(self.cgroup.parent, frozenset({"memory"}), {})
        self.kernel = FakeKernel()
        self.observer = Observer(self.kernel, home, cgroups, lambda: None)
        self.runtime = BoxRuntime(ID, lambda _handle: None)

    def look(self) -> Sight:
        return self.observer.observe(ROW, self.runtime)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_death_is_seen_with_all_that_surrounds_it(world: World) -> None:
    seen = world.look().observation
    assert (seen.identity, seen.directory, seen.pid_file) == (IdentityKind.ABSENT, True, True)
    assert (seen.leftovers, seen.oom) == (False, False)
    (world.cgroup / "cgroup.procs").write_text("4242\n")
    (world.cgroup / "memory.events").write_text("oom_kill 1\n")
    seen = world.look().observation
    assert (seen.leftovers, seen.oom) == (True, True)


def test_what_is_gone_is_said_to_be_gone(world: World) -> None:
    for path in world.cgroup.iterdir():
        path.unlink()
    world.cgroup.rmdir()
    world.layout.pid_file.unlink()
    world.layout.directory.rmdir()
    seen = world.look().observation
    assert (seen.identity, seen.directory, seen.pid_file) == (IdentityKind.ABSENT, False, False)
    assert (seen.leftovers, seen.oom) == (False, False)


@pytest.mark.parametrize("name", ["cgroup.procs", "memory.events"])
def test_a_cgroup_that_cannot_be_read_is_not_taken_for_an_empty_one(world: World, name: str) -> None:
    (world.cgroup / name).unlink()
    (world.cgroup / name).mkdir()  # EISDIR, for root too
    passes = [world.look().observation for _ in range(3)]
    assert [(seen.identity, seen.errno) for seen in passes] == [(IdentityKind.UNKNOWN, errno.EISDIR)] * 3
    assert [seen.unknown_passes for seen in passes] == [1, 2, 3]  # after three it is said
    (world.cgroup / name).rmdir()
    (world.cgroup / name).write_text("")
    assert world.look().observation.identity is IdentityKind.ABSENT
    assert world.runtime.unknown_passes == 0


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize(("call", "what"), [("lstat", "pid_file"), ("stat", "directory")])
def test_a_path_that_cannot_be_looked_at_is_not_taken_for_a_missing_one(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str, what: str, *, alive: bool
) -> None:
    path, real = getattr(world.layout, what), getattr(os, call)

    def fails(looked_at: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if looked_at == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result: os.stat_result = real(looked_at, *arguments, **options)
        return result

    monkeypatch.setattr(os, call, fails)
    if alive:
        world.kernel.add(500, start_time=77)
    sight = world.look()
    if alive and what == "directory":  # nobody needs to ask for it
        assert sight.observation.identity is IdentityKind.VERIFIED
        return
    assert (sight.observation.identity, sight.observation.errno) == (IdentityKind.UNKNOWN, errno.EIO)
    assert (sight.handle, world.kernel.open_fds) == (None, {})


@pytest.mark.parametrize(("run_id", "own"), [("r", True), ("earlier", False), (None, True)])
def test_only_a_record_that_another_run_wrote_says_nothing_of_this_end(
    world: World, *, run_id: str | None, own: bool
) -> None:
    write_exit_file(world.layout.exit_file, ExitInfo("exited", 0, run_id=run_id))
    sight = world.look()
    assert sight.exit_info is not None
    assert (sight.own_exit is not None) is own  # else its code 0 would be told as that of a box that was killed


@pytest.mark.parametrize(("ended", "waits"), [(None, True), (ExitStatus(code=0), True), (ExitStatus(signal=9), False)])
async def test_a_fresh_death_is_waited_on_for_its_record_unless_a_signal_says_that_there_is_none(
    world: World, autojump_clock: trio.testing.MockClock, *, ended: ExitStatus | None, waits: bool
) -> None:
    process = world.kernel.add(500, start_time=77)
    world.runtime.handle = PidfdHandle(world.kernel, 500, world.kernel.pidfd_open(500), None)
    process.reaped, process.ended = True, ended
    world.runtime.died_at = trio.current_time()
    assert world.look().observation.evidence_pending is waits
    await trio.sleep(EVIDENCE_WAIT_SECONDS)
    assert not world.look().observation.evidence_pending


YEAR = 365 * 86400.0
DOWN = 60.0  # how long no daemon looked, after an end that nobody saw


@pytest.mark.parametrize("ran", [1.0, 40.0])
@pytest.mark.parametrize(("during", "since"), [(0.0, 0.0), (YEAR, 0.0), (-YEAR, 0.0), (0.0, YEAR), (0.0, -YEAR)])
def test_a_run_ends_at_its_record_and_not_at_the_look_whatever_the_wall_clock_did_once(
    world: World, ran: float, during: float, since: float
) -> None:
    write_exit_file(world.layout.exit_file, ExitInfo("exited", 1, run_id="r"))
    written_at = time.time() - DOWN - since
    os.utime(world.layout.exit_file, (written_at, written_at))
    row = msgspec.structs.replace(
        ROW, started_at=written_at - ran - during, started_boottime=world.kernel.now - DOWN - ran
    )
    seen = world.observer.observe(row, world.runtime).observation
    assert seen.ran_seconds == pytest.approx(ran, abs=5)


def test_a_run_of_another_boot_is_measured_by_the_wall_clock_and_only_by_its_record(world: World) -> None:
    started = {"started_at": time.time() - 300, "started_boottime": 5.0, "boot_id": "boot-0"}
    row = msgspec.structs.replace(ROW, **started)
    assert world.observer.observe(row, world.runtime).observation.ran_seconds is None
    write_exit_file(world.layout.exit_file, ExitInfo("exited", 1, run_id="r"))
    assert world.observer.observe(row, world.runtime).observation.ran_seconds == pytest.approx(300, abs=5)


@pytest.mark.parametrize("run_id", ["earlier", None])
def test_a_run_that_left_no_record_may_have_lasted_until_now(world: World, run_id: str | None) -> None:
    if run_id is not None:
        write_exit_file(world.layout.exit_file, ExitInfo("exited", 1, run_id=run_id))
    row = msgspec.structs.replace(ROW, started_at=time.time() - DOWN, started_boottime=world.kernel.now - DOWN)
    assert world.observer.observe(row, world.runtime).observation.ran_seconds == DOWN


async def test_a_run_whose_end_was_seen_ends_there(world: World, autojump_clock: trio.testing.MockClock) -> None:
    row = msgspec.structs.replace(ROW, started_at=time.time(), started_boottime=world.kernel.now - DOWN)
    world.runtime.died_at = trio.current_time()
    await trio.sleep(DOWN - 1)
    assert world.observer.observe(row, world.runtime).observation.ran_seconds == pytest.approx(1)
