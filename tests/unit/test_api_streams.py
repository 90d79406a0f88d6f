"""Streams and the life of connections: events, logs, long polls, slow clients, shutdown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
import trio

from boxlited.api import connection, streaming
from boxlited.api.listeners import listen_unix
from boxlited.api.server import ApiServer
from boxlited.errors import StorageError
from boxlited.model import BoxStatus, EventKind
from tests.unit.test_api_support import PATIENCE, Api, MemoryLog, MemorySupervisor, Wire, error_of, served, unix_client


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        yield api


async def read_events(wire: Wire, count: int) -> list[dict[str, Any]]:
    """The next `count` events; checks that id, kind and data agree."""
    text = b""
    while text.count(b"\ndata: ") < count or not text.endswith(b"\n\n"):
        piece = await wire.piece()
        assert piece is not None, text
        text += piece
    found = []
    for message in text.decode().removesuffix("\n\n").split("\n\n"):
        if not message.startswith(":"):
            fields = dict(line.split(": ", 1) for line in message.split("\n"))
            event = json.loads(fields["data"])
            assert (int(fields["id"]), fields["event"]) == (event["seq"], event["kind"])
            found.append(event)
    return found


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for event in events]


async def test_events_are_replayed_and_then_live_without_gap_or_repeat(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "REPLAY_PAGE", 2)
    for _ in range(5):
        api.supervisor.emit()
    async with Wire.open(api.path) as wire:
        head = await wire.ask("GET", "/v1/events?since=1")
        assert dict(head.headers)[b"content-type"] == b"text/event-stream"
        await api.supervisor.subscribed.wait()
        api.supervisor.emit(EventKind.FAILED, reason="a\nb")
        events = await read_events(wire, 5)
    assert numbers(events) == [2, 3, 4, 5, 6]
    assert events[-1]["data"] == {"reason": "a\nb"}
    assert events[-1]["at"] == "2023-11-14T22:13:20.500000Z"


async def test_without_since_only_new_events_come(api: Api) -> None:
    api.supervisor.emit()
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/events")
        await api.supervisor.subscribed.wait()
        api.supervisor.emit()
        assert numbers(await read_events(wire, 1)) == [2]


async def test_last_event_id_goes_on_where_a_client_was(api: Api) -> None:
    for _ in range(3):
        api.supervisor.emit()
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/events?since=0", ("Last-Event-ID", "2"))
        assert numbers(await read_events(wire, 1)) == [3]
    error_of(await api.client.get("/v1/events", headers={"Last-Event-ID": "x"}), 400, "invalid_argument")
    error_of(await api.client.get("/v1/events?since=-1"), 400, "invalid_argument")


async def test_a_number_from_another_database_does_not_hide_new_events(api: Api) -> None:
    api.supervisor.emit()
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/events?since=900")
        await api.supervisor.subscribed.wait()
        api.supervisor.emit()
        assert numbers(await read_events(wire, 1)) == [2]


async def test_a_reader_that_falls_behind_is_cut_and_told_to_reconnect(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/events")
        await api.supervisor.subscribed.wait()
        for _ in range(20):  # more than the channel holds, with no chance to read between
            api.supervisor.emit()
        assert b"reconnect with Last-Event-ID" in await wire.rest()
    assert api.supervisor.subscribers == []


async def test_a_silent_stream_has_heartbeats(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.01)
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/events")
        while await wire.piece() != b": heartbeat\n\n":
            pass


async def test_a_client_that_goes_away_ends_its_stream(api: Api) -> None:
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/events")
        await api.supervisor.subscribed.wait()
        assert len(api.supervisor.subscribers) == 1
    await api.supervisor.unsubscribed.wait()
    assert api.supervisor.subscribers == []


async def test_a_client_that_goes_away_ends_its_long_poll(api: Api) -> None:
    api.supervisor.put("web", BoxStatus.RUNNING)
    async with Wire.open(api.path) as wire:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.ask, "POST", "/v1/boxes/web/wait")
                await api.supervisor.waiting.wait()
                scope.cancel()
    await api.supervisor.gave_up.wait()


async def test_logs_are_given_whole(api: Api) -> None:
    api.supervisor.put("web")
    reply = await api.client.get("/v1/boxes/web/logs?tail=7&since=2023-11-14T22:13:20Z")
    assert (reply.text, reply.headers["content-type"]) == ("one\ntwo\n", "text/plain; charset=utf-8")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert api.supervisor.log.asked == {"tail": 7, "since": 1_700_000_000.0, "follow": False}
    assert (await api.client.head("/v1/boxes/web/logs")).content == b""
    error_of(await api.client.get("/v1/boxes/none/logs"), 404, "not_found")
    for bad in ("tail=-1", "since=yesterday", "since=2023-11-14T22:13:20", "follow=2"):
        error_of(await api.client.get(f"/v1/boxes/web/logs?{bad}"), 400, "invalid_argument")


async def test_followed_logs_come_as_they_are_written_and_end_with_the_box(api: Api) -> None:
    api.supervisor.put("web", BoxStatus.RUNNING)
    send, receive = trio.open_memory_channel[bytes](10)
    api.supervisor.log = MemoryLog([], receive)
    async with send, receive, Wire.open(api.path) as wire:
        head = await wire.ask("GET", "/v1/boxes/web/logs?follow=true")
        assert head.status_code == 200  # the head comes before anything was written
        for piece in (b"\x1b[31mred", b"\xff\x00"):
            await send.send(piece)
            assert await wire.piece() == piece
        await send.aclose()
        assert await wire.piece() is None


class UnreadableLog(MemoryLog):
    async def read(self, **_: object) -> AsyncIterator[bytes]:  # type: ignore[override]
        raise StorageError("the console log is not a regular file")
        yield b""


async def test_a_log_that_cannot_be_opened_is_an_error_and_no_empty_log(api: Api) -> None:
    api.supervisor.put("web")
    api.supervisor.log = UnreadableLog([], None)
    error_of(await api.client.get("/v1/boxes/web/logs?follow=1"), 500, "storage_error")


class BreakingLog(MemoryLog):
    async def read(self, **_: object) -> AsyncIterator[bytes]:  # type: ignore[override]
        yield b"one\n"
        raise StorageError("the disk broke")


async def test_a_stream_that_breaks_does_not_look_complete(api: Api) -> None:
    api.supervisor.put("web")
    api.supervisor.log = BreakingLog([], None)
    with pytest.raises(httpx.RemoteProtocolError):
        await api.client.get("/v1/boxes/web/logs")
    assert (await api.client.get("/healthz")).status_code == 200


class EndlessLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__([], None)
        self.closed = trio.Event()

    async def read(self, **_: object) -> AsyncIterator[bytes]:  # type: ignore[override]
        try:
            while True:
                yield b"x" * 65536
        finally:
            self.closed.set()


async def test_a_client_that_does_not_read_is_cut(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.05)
    api.supervisor.put("web")
    log = api.supervisor.log = EndlessLog()
    async with Wire.open(api.path) as wire:
        await wire.ask("GET", "/v1/boxes/web/logs")
        await log.closed.wait()
        with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
            await wire.rest()


async def test_shutdown_ends_streams_and_long_polls_at_once_and_lets_requests_finish(tmp_path: Path) -> None:
    async with served(tmp_path, grace_seconds=PATIENCE) as api, unix_client(api.path) as other:
        api.supervisor.put("web", BoxStatus.RUNNING)
        replies: dict[str, httpx.Response] = {}

        async def ask(name: str, method: str, path: str) -> None:
            replies[name] = await other.request(method, path)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "events", "GET", "/v1/events")
            nursery.start_soon(ask, "wait", "POST", "/v1/boxes/web/wait")
            await api.supervisor.subscribed.wait()
            await api.supervisor.waiting.wait()
            api.server.stop()
        assert replies["events"].status_code == 200
        error_of(replies["wait"], 503, "engine_unavailable")
        assert replies["wait"].headers["connection"] == "close"
    assert not api.path.exists()


class SlowMetrics(MemorySupervisor):
    def __init__(self) -> None:
        super().__init__()
        self.entered = trio.Event()
        self.release = trio.Event()

    async def box_metrics(self, ref: str) -> dict[str, Any]:
        self.entered.set()
        await self.release.wait()
        return {"done": True}


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_a_server_that_ends_lets_a_request_in_flight_finish(tmp_path: Path, how: str) -> None:
    supervisor = SlowMetrics()
    server = ApiServer(supervisor, [listen_unix(tmp_path / "b.sock")], grace_seconds=PATIENCE)
    async with unix_client(tmp_path / "b.sock") as client, trio.open_nursery() as outside:
        async with trio.open_nursery() as daemon:
            await daemon.start(server.serve)

            async def ask() -> None:
                assert (await client.get("/v1/boxes/web/metrics")).json() == {"done": True}

            outside.start_soon(ask)
            await supervisor.entered.wait()
            server.stop() if how == "stopped" else daemon.cancel_scope.cancel()
            supervisor.release.set()
        assert not (tmp_path / "b.sock").exists()


async def test_a_request_that_outlasts_the_grace_is_ended(tmp_path: Path) -> None:
    supervisor = SlowMetrics()
    async with served(tmp_path, supervisor=supervisor, grace_seconds=0.01) as api, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await api.client.get("/v1/boxes/web/metrics")

        nursery.start_soon(ask)
        await supervisor.entered.wait()
        api.server.stop()
