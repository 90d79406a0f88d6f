"""Attach: a box is proven alive through shim.pid and the kernel, whatever its row says; or the reason is told.

The HTTP API attaches for every signal but SIGKILL; what it cannot show is asked of a supervisor
in this process, on a home that a real daemon filled and left behind.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from boxlited.config import Config
from boxlited.errors import InvalidState, Stopped
from boxlited.homelock import acquire
from boxlited.model import BoxID, BoxStatus, IdentityKind
from boxlited.store.store import Store
from boxlited.supervisor.cgroup import Cgroups
from boxlited.supervisor.controlkey import load_or_make
from boxlited.supervisor.kernel import Kernel
from boxlited.supervisor.layout import HomeLayout
from boxlited.supervisor.supervisor import Supervisor
from tests.integration.daemon_harness import Daemon, is_alive, kill_pid, signal_pid, until
from tests.integration.database import edit_rows
from tests.integration.processes import start_time
from tests.integration.test_lifecycle import workload_of

CONFIG = "[reconcile]\nperiod_seconds = 0.2\njitter = 0.0\n"
TRAPPED = ["/bin/sh", "-c", "trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.05; done"]


@pytest.fixture
def daemon(kept_daemon: Daemon) -> Daemon:
    return kept_daemon


class Blindable(Kernel):
    """The real kernel, until no descriptor is to be had any more."""

    blind = False

    def pidfd_open(self, pid: int) -> int:
        if self.blind:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().pidfd_open(pid)


@asynccontextmanager
async def succeed(
    daemon: Daemon, config: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Supervisor, Store, Blindable]]:
    """Kill the daemon and serve its home from this process, without a period of its own."""
    daemon.kill9()
    kernel, home = Blindable(), HomeLayout(daemon.home)
    lock_fd = acquire(home.lock_file, kernel)
    store = Store.at(home.database)
    settings = msgspec.convert({"home": str(daemon.home), "socket": str(daemon.socket), **(config or {})}, Config)
    cgroups, key = Cgroups.detect(home=home.home), load_or_make(home.control_key)
    supervisor = Supervisor(settings, kernel, home, store, cgroups, lock_fd, {}, key)
    supervisor.launch_spawner()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            async with trio.open_nursery() as inner:
                await inner.start(supervisor.run)
                yield supervisor, store, kernel
                inner.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    finally:
        os.close(lock_fd)


def ready(daemon: Daemon, box_id: str) -> None:
    until(lambda: b"ready" in b"".join(daemon.client.logs(box_id)), "the trap is set")


def test_a_signal_goes_to_the_pid_of_the_file_and_never_to_that_of_the_row(daemon: Daemon) -> None:
    box = daemon.run(TRAPPED)
    ready(daemon, box["box_id"])
    stranger = daemon.sentinels[0].pid  # USR1 would end it
    daemon.kill9()
    edit_rows(daemon, "UPDATE boxes SET pid = ?", stranger)
    daemon.start()
    assert daemon.client.kill(box["box_id"], signal.SIGUSR1)["pid"] == box["pid"]
    until(lambda: b"got usr1" in b"".join(daemon.client.logs(box["box_id"])), "the signal arrives")
    daemon.check_oracle({box["box_id"]: "running"})


async def test_a_row_that_went_wrong_is_corrected_by_attach(daemon: Daemon) -> None:
    box = daemon.run()
    async with succeed(daemon) as (supervisor, store, _):
        await store.update(BoxID(box["box_id"]), {"pid": daemon.sentinels[0].pid}, None, must_be_durable=True)
        attached = await supervisor.attach(box["box_id"])
        assert (attached.pid, attached.identity, attached.status) == (
            box["pid"], IdentityKind.VERIFIED, BoxStatus.RUNNING,
        )  # fmt: skip
        assert supervisor.get(box["name"]).pid == box["pid"]


@pytest.mark.parametrize("victim", ["workload", "shim"])
async def test_a_death_that_nobody_saw_yet_is_told_with_its_cause(daemon: Daemon, victim: str) -> None:
    box = daemon.run()
    async with succeed(daemon) as (supervisor, _, _):
        if victim == "workload":
            signal_pid(workload_of(box["pid"]), signal.SIGABRT)
        else:
            kill_pid(box["pid"])
        until(lambda: not is_alive(box["pid"]), "the shim ends")
        with pytest.raises(Stopped, match="SIGABRT" if victim == "workload" else "SIGKILL"):
            await supervisor.attach(box["box_id"])
        assert supervisor.get(box["box_id"]).status is BoxStatus.FAILED


async def test_a_death_of_long_ago_is_told_with_its_cause(daemon: Daemon) -> None:
    box = daemon.run(["/bin/sh", "-c", "kill -SEGV $$"])
    daemon.wait_status(box["box_id"], "failed")
    async with succeed(daemon) as (supervisor, _, _):
        with pytest.raises(Stopped, match=r"failed: .*SIGSEGV"):
            await supervisor.attach(box["box_id"])


async def test_attach_never_starts_a_box(daemon: Daemon) -> None:
    fresh, stopped = daemon.create(), daemon.run()
    daemon.client.stop(stopped["box_id"])
    async with succeed(daemon) as (supervisor, _, _):
        for box, status in ((fresh, "configured"), (stopped, "stopped")):
            with pytest.raises(Stopped, match=f"{status}; start it first"):
                await supervisor.attach(box["box_id"])
        assert daemon.shims() == []


async def test_unknown_identity_is_refused_and_not_called_stopped(daemon: Daemon) -> None:
    box = daemon.run()
    async with succeed(daemon) as (supervisor, _, kernel):
        kernel.blind = True
        with pytest.raises(
            InvalidState, match=rf"may be alive.*errno {errno.EMFILE}|errno {errno.EMFILE}.*may be alive"
        ):
            await supervisor.attach(box["box_id"])
        assert is_alive(box["pid"])
        assert supervisor.get(box["box_id"]).status is BoxStatus.RUNNING
        kernel.blind = False
        assert (await supervisor.attach(box["box_id"])).pid == box["pid"]


async def test_legacy_pid_file_is_attached_to_with_a_warning(daemon: Daemon) -> None:
    box = daemon.run()
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(f"{box['pid']}\n")
    async with succeed(daemon) as (supervisor, _, _):
        attached = await supervisor.attach(box["box_id"])
        assert (attached.pid, attached.identity) == (box["pid"], IdentityKind.LEGACY)
        assert "legacy" in (attached.warning or "")


async def test_a_stranger_in_the_pid_file_is_never_attached_to(daemon: Daemon) -> None:
    box = daemon.run()
    daemon.kill9()
    kill_pid(box["pid"])
    until(lambda: not is_alive(box["pid"]), "the shim ends")
    stranger = daemon.sentinels[0].pid
    (daemon.box_dir(box["box_id"]) / "shim.pid").write_text(f"{stranger}\n{start_time(stranger) + 1}\n")
    daemon.start()
    async with succeed(daemon) as (supervisor, _, _):
        with pytest.raises(Stopped):
            await supervisor.attach(box["box_id"])
    assert is_alive(stranger)


def test_signal_for_a_dead_box_says_why_it_is_dead(daemon: Daemon) -> None:
    box = daemon.run(["/bin/sh", "-c", "kill -ABRT $$"])
    daemon.wait_status(box["box_id"], "failed")
    with pytest.raises((Stopped, InvalidState), match="failed"):
        daemon.client.kill(box["box_id"], signal.SIGUSR1)
    assert "SIGABRT" in daemon.client.crash(box["box_id"])["user_message"]


@pytest.mark.parametrize("damage", ["removed", "torn", "fifo", "stranger", "link"])
def test_a_pid_file_damaged_beside_a_live_shim_is_written_anew(daemon: Daemon, damage: str) -> None:
    """What is held by its pidfd is alive: neither killed nor given a second shim for a file's sake."""
    box = daemon.run()
    path = daemon.box_dir(box["box_id"]) / "shim.pid"
    record, stranger = path.read_bytes(), daemon.sentinels[0].pid
    path.unlink()
    if damage == "torn":
        path.write_bytes(b"\xff garbage")
    elif damage == "fifo":
        os.mkfifo(path)
    elif damage == "stranger":
        path.write_text(f"{stranger}\n{start_time(stranger)}\n")
    elif damage == "link":
        path.symlink_to(Path("/etc/passwd"))
    assert daemon.client.start(box["box_id"])["pid"] == box["pid"]
    assert path.read_bytes() == record
    assert not path.is_symlink()
    daemon.check_oracle({box["box_id"]: "running"})


def test_a_pid_file_lost_beside_a_live_shim_does_not_keep_it_from_being_stopped(daemon: Daemon) -> None:
    box = daemon.run()
    (daemon.box_dir(box["box_id"]) / "shim.pid").unlink()
    assert daemon.client.stop(box["box_id"])["status"] == "stopped"
    assert not is_alive(box["pid"])
    daemon.check_oracle({box["box_id"]: "stopped"})
