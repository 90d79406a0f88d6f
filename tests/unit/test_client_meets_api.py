"""Promise: the client and the API understand each other. Both are real; the supervisor is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from boxlited import errors
from boxlited.client import Client
from boxlited.model import BoxStatus, EventKind
from tests.unit.test_api_support import PATIENCE, MemorySupervisor, Report, served

T = TypeVar("T")


async def _with_client(directory: Path, supervisor: MemorySupervisor, work: Callable[[Client], T]) -> T:
    """`work` in a thread, with a client of a served API."""

    def call() -> T:
        with Client(directory / "b.sock") as client:
            return work(client)

    async with served(directory, supervisor=supervisor):
        with trio.fail_after(PATIENCE):
            return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


async def test_a_box_goes_through_its_life(tmp_path: Path) -> None:
    def work(client: Client) -> None:
        spec = {"name": "web", "image": "host", "cmd": ["true"], "labels": {"k": "v"}}
        box = client.create(spec, idempotency_key="k1")
        assert client.create(spec, idempotency_key="k1")["box_id"] == box["box_id"]
        assert client.start("web")["status"] == "running"
        assert client.get(box["box_id"])["labels"] == {"k": "v"}
        assert [found["name"] for found in client.list("running")] == ["web"]
        assert client.restart("web", 3)["status"] == "running"
        assert client.kill("web", 15)["name"] == "web"
        assert client.box_metrics("web")["memory_bytes"] == 4096
        with pytest.raises(errors.InvalidState):
            client.remove("web")
        with pytest.raises(errors.Timeout):
            client.wait("web", 0.0)
        assert client.stop("web", 5)["stop_cause"] == "user"
        assert client.wait("web")["status"] == "stopped"
        assert client.reset_failed("web")["status"] == "stopped"
        client.remove("web", force=True)
        with pytest.raises(errors.NotFound):
            client.start("web")

    supervisor = MemorySupervisor()
    await _with_client(tmp_path, supervisor, work)
    assert supervisor.asked == [("restart", 3.0), ("kill", 15), ("stop", 5.0)]


async def test_pages_of_boxes_add_up(tmp_path: Path) -> None:
    supervisor = MemorySupervisor()
    for number in range(25):
        supervisor.put(f"box-{number:02}")
    names = await _with_client(tmp_path, supervisor, lambda client: [box["name"] for box in client.list(page_size=10)])
    assert names == [f"box-{number:02}" for number in range(25)]


async def test_logs_crash_and_reconcile(tmp_path: Path) -> None:
    supervisor = MemorySupervisor()
    box = supervisor.put("web", BoxStatus.FAILED)
    supervisor.crashes[box.box_id, False] = Report("died", "tail", "engine")

    def work(client: Client) -> None:
        with client.logs("web", tail=3, since=12.0) as stream:
            assert b"".join(stream) == b"one\ntwo\n"
        assert client.crash("web") == {"user_message": "died", "debug_info": "tail", "error_kind": "engine"}
        with pytest.raises(errors.NotFound):
            client.crash("web", previous=True)
        assert client.reconcile(dry_run=True)[0]["action"] == "none"
        assert client.config()["capabilities"]["tty_enabled"] is False
        assert client.me()["scopes"]
        assert client.health()

    await _with_client(tmp_path, supervisor, work)
    assert supervisor.log.asked == {"tail": 3, "since": 12.0, "follow": False}


async def test_a_stopping_daemon_does_not_pass_for_a_box_that_ended(tmp_path: Path) -> None:
    """The wait is answered with an error, and not with a box that stopped."""
    supervisor = MemorySupervisor()
    supervisor.put("web", BoxStatus.RUNNING)

    def work() -> None:
        with Client(tmp_path / "b.sock") as client, pytest.raises(errors.EngineUnavailable):
            client.wait("web")

    async with served(tmp_path, supervisor=supervisor) as api, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, work)
        with trio.fail_after(PATIENCE):
            await supervisor.waiting.wait()
        api.server.stop()


async def test_events_are_replayed_and_then_live(tmp_path: Path) -> None:
    supervisor = MemorySupervisor()
    for kind in (EventKind.CREATED, EventKind.STARTED):
        supervisor.emit(kind)

    def work(client: Client) -> list[tuple[int, str]]:
        with client.events(since=1) as stream:
            seen = []
            for event in stream:
                seen.append((event["seq"], event["kind"]))
                if len(seen) == 1:
                    trio.from_thread.run_sync(supervisor.emit, EventKind.FAILED)
                else:
                    return seen
        return seen

    assert await _with_client(tmp_path, supervisor, work) == [(2, "started"), (3, "failed")]
