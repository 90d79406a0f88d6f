"""The daemon's end of the spawner's socket: an answer that came is taken, whatever comes with it."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from boxlited.errors import EngineUnavailable, ResourceExhausted
from boxlited.supervisor.kernel import ExitStatus
from boxlited.supervisor.spawn import Spawned, Spawner, SpawnerGone, SpawnRequest

TIMES = 40  # trio runs tasks in any order: each time is one throw of a coin


class ThreadlessSpawner:
    """A spawner's other end, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spawner = Spawner(-1, lambda *_: None)
        monkeypatch.setattr(Spawner, "launch", lambda _spawner: self._connect())
        self.theirs: list[socket.socket] = []

    def _connect(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        self.theirs.append(theirs)
        self.spawner._socket = trio.socket.from_stdlib_socket(ours)

    async def answer(self, pidfds: int = 1, **changes: Any) -> None:
        """To the request that was sent, with a descriptor in place of a pidfd."""
        theirs = self.theirs[-1]
        await trio.lowlevel.wait_readable(theirs)
        data, ancillary, _, _ = theirs.recvmsg(65536, 1024)
        for _level, _kind, raw in ancillary:
            fds = array.array("i")
            fds.frombytes(raw)
            for fd in fds:
                os.close(fd)
        message = {"op": "spawned", "seq": json.loads(data)["seq"], "pid": 77, "start_time": 5, **changes}
        null = os.open("/dev/null", os.O_RDONLY)
        theirs.sendmsg(
            [json.dumps(message).encode()],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * pidfds))][:pidfds],
        )
        os.close(null)


@pytest.fixture
def request_(tmp_path: Path) -> SpawnRequest:
    return SpawnRequest(str(tmp_path / "shim.pid"), b"{}", str(tmp_path / "stderr"))


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ThreadlessSpawner]:
    """Its spawner runs."""
    one = ThreadlessSpawner(monkeypatch)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.spawner.run)
        yield one
        nursery.cancel_scope.cancel()
    for theirs in one.theirs:
        theirs.close()


def close(spawned: Spawned) -> None:
    os.close(spawned.pidfd)
    os.close(spawned.ready_fd)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("turn", range(TIMES))
async def test_an_answer_before_the_spawners_death_is_an_answer(
    turn: int, request_: SpawnRequest, stage: ThreadlessSpawner
) -> None:
    found: list[Spawned] = []

    async def ask() -> None:
        found.append(await stage.spawner.spawn(request_))

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        await stage.answer()
        stage.theirs[0].close()
    assert (found[0].pid, found[0].start_time) == (77, 5)
    close(found[0])


@pytest.mark.parametrize("turn", range(TIMES))
async def test_an_end_that_comes_with_the_birth_is_told_to_who_asked_or_after_he_knows(
    turn: int, request_: SpawnRequest, stage: ThreadlessSpawner
) -> None:
    """What is told of a shim that nobody knows yet would be dropped, and the death have no cause."""
    found: list[Spawned] = []
    told: list[int] = []

    def on_exited(seq: int, _pid: int, _status: ExitStatus) -> None:
        assert [spawned.seq for spawned in found] == [seq]
        told.append(seq)

    stage.spawner._on_exited = on_exited

    async def ask() -> None:
        found.append(await stage.spawner.spawn(request_))

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        await stage.answer()
        stage.theirs[0].send(json.dumps({"op": "exited", "seq": 1, "pid": 77, "status": 9}).encode())
    await trio.testing.wait_all_tasks_blocked()
    assert [found[0].ended, *told] in ([ExitStatus(signal=9)], [None, 1])
    close(found[0])


@pytest.mark.parametrize("turn", range(TIMES))
async def test_who_is_cancelled_as_the_answer_comes_leaves_no_descriptor(
    turn: int, request_: SpawnRequest, stage: ThreadlessSpawner
) -> None:
    before = open_descriptors()

    async def ask() -> None:
        close(await stage.spawner.spawn(request_))

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        await stage.answer()
        await trio.testing.wait_all_tasks_blocked() if turn % 2 else await trio.lowlevel.checkpoint()
        asking.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert open_descriptors() == before


async def test_an_answer_whose_pidfd_found_no_number_is_a_refusal_and_no_end_of_the_daemon(
    request_: SpawnRequest, stage: ThreadlessSpawner
) -> None:
    async with trio.open_nursery() as asking:

        async def ask() -> None:
            with pytest.raises(ResourceExhausted, match="no descriptor free"):
                await stage.spawner.spawn(request_)

        asking.start_soon(ask)
        await stage.answer(pidfds=0)
    assert stage.spawner.restarts == 0


async def test_a_death_without_an_answer_is_one(request_: SpawnRequest, stage: ThreadlessSpawner) -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as asking:

            async def ask() -> None:
                with pytest.raises(SpawnerGone):
                    await stage.spawner.spawn(request_)

            asking.start_soon(ask)
            await trio.lowlevel.wait_readable(stage.theirs[0])
            stage.theirs[0].close()
    assert stage.spawner.restarts == 1


@pytest.mark.parametrize("reads", [True, False])
async def test_a_spawner_that_hangs_is_told_to_give_up_what_it_forked(
    request_: SpawnRequest, stage: ThreadlessSpawner, autojump_clock: trio.testing.MockClock, *, reads: bool
) -> None:
    theirs = stage.theirs[-1]
    if not reads:  # its socket takes nothing more
        assert stage.spawner._socket is not None
        while True:
            try:
                os.write(stage.spawner._socket.fileno(), b"x" * 1000)
            except BlockingIOError:
                break
    with pytest.raises(EngineUnavailable, match="did not answer"):
        await stage.spawner.spawn(request_)
    if not reads:
        return
    asked, _, _, _ = theirs.recvmsg(65536)  # its descriptors are dropped
    given_up, _, _, _ = theirs.recvmsg(65536)
    assert json.loads(given_up) == {"op": "cancel", "seq": json.loads(asked)["seq"]}


class Held:
    """A spawner's socket that takes nothing until it is closed, as trio's does."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self._closed = trio.Event()
        self.sent = 0

    async def sendmsg(self, _buffers: list[bytes], _ancillary: object) -> None:
        self.sent += 1
        self.asked.set()
        await self._closed.wait()
        raise trio.ClosedResourceError

    def close(self) -> None:
        self._closed.set()


@pytest.mark.parametrize("is_back", [False, True])
async def test_who_waits_to_ask_a_spawner_that_dies_is_told_so_and_asks_no_other(is_back: bool) -> None:
    spawner, old, new = Spawner(-1, lambda *_: None), Held(), Held()
    told: list[BaseException] = []

    async def ask() -> None:
        try:
            await spawner._ask(SpawnRequest(pid_file="/p", spec=b"", stderr_path="/e"), [])
        except SpawnerGone as error:
            told.append(error)

    spawner._socket = old  # type: ignore[assignment]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await old.asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            spawner._lost()
            if is_back:
                spawner._socket = new  # type: ignore[assignment]
    assert len(told) == 2
    assert new.sent == 0
