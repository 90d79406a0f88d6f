"""The routes of boxes, over a real unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from boxlited.model import BoxStatus
from tests.unit.test_api_support import Api, Report, error_of, served

FIELDS = """box_id name status created_at updated_at started_at pid image cpus memory_mib labels network exit_code
auto_stop auto_delete auto_resume desired engine identity stop_cause failure_reason restart_count run_id
ended_at exit_signal error_kind warning not_applied"""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        yield api


async def test_a_created_box_is_shown_with_exactly_the_fields_of_the_contract(api: Api) -> None:
    reply = await api.client.post("/v1/boxes", json={"name": "web", "image": "host", "labels": {"a": "b"}})
    assert reply.status_code == 201
    box = reply.json()
    assert reply.headers["location"] == f"/v1/boxes/{box['box_id']}"
    assert set(box) == set(FIELDS.split())
    assert box["created_at"] == "2023-11-14T22:13:20.250000Z"
    assert (box["status"], box["desired"], box["identity"]) == ("configured", "stopped", "absent")
    assert isinstance(box["cpus"], int)
    assert isinstance(box["memory_mib"], int)
    assert box["labels"] == {"a": "b"}
    assert (await api.client.get("/v1/boxes/web")).json() == box
    assert (await api.client.get(f"/v1/boxes/{box['box_id']}")).json() == box


async def test_numbers_that_an_sdk_wants_are_whole_and_never_null(api: Api) -> None:
    body = {"rootfs_path": "/srv/root", "cpus": 0.5, "memory_mib": 64, "auto_stop": 5, "auto_resume": False}
    box = (await api.client.post("/v1/boxes", json=body)).json()
    assert (box["cpus"], box["memory_mib"], box["image"]) == (1, 64, "/srv/root")
    assert (box["auto_stop"], box["auto_delete"], box["auto_resume"]) == (5, 0, False)


async def test_an_idempotency_key_reaches_the_supervisor_and_is_checked(api: Api) -> None:
    first = await api.client.post("/v1/boxes", json={"name": "a"}, headers={"Idempotency-Key": "k-1"})
    again = await api.client.post("/v1/boxes", json={"name": "a"}, headers={"Idempotency-Key": "k-1"})
    assert first.json()["box_id"] == again.json()["box_id"]
    for bad in ("", "x" * 256, "with space"):
        reply = await api.client.post("/v1/boxes", json={}, headers={"Idempotency-Key": bad})
        assert "Idempotency-Key" in error_of(reply, 400, "invalid_argument")["message"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"nam": "x"}, 400, "invalid_argument", "nam"),
        ({"network": {"outbound": {"mod": 1}}}, 400, "invalid_argument", "mod"),
        ({"name": "no/slash"}, 400, "invalid_argument", "box name"),
        ({"name": "a" * 64}, 400, "invalid_argument", "box name"),
        ({"name": "aaaaaaaaaaaaaaaa"}, 400, "invalid_argument", "looks like a box id"),
        ({"memory_mib": "512"}, 400, "invalid_argument", "memory_mib"),
        ({"memory_mib": 0}, 400, "invalid_argument", "memory_mib"),
        ({"cmd": ["a\0b"]}, 400, "invalid_argument", "NUL"),
        ({"env": {"A\0": "b"}}, 400, "invalid_argument", "NUL"),
        ({"image": "host", "rootfs_path": "/x"}, 400, "invalid_argument", "exclude"),
        ({"image": "alpine:latest"}, 422, "unsupported", 'use image "host" or rootfs_path'),
        ({"restart": {"policy": "maybe"}}, 400, "invalid_argument", "use one of no, on-failure, always"),
        ([], 400, "invalid_argument", "not valid"),
    ],
)
async def test_a_bad_create_says_what_is_wrong(api: Api, body: Any, status: int, code: str, says: str) -> None:
    assert says in error_of(await api.client.post("/v1/boxes", json=body), status, code)["message"]
    assert api.supervisor.boxes == {}


@pytest.mark.parametrize("body", [b"{", b"\xff", b"nul", b"[" * 100_000, b'{"name": "\\ud800"}', b'{"name":"a"}x'])
async def test_a_body_that_is_not_json_is_refused(api: Api, body: bytes) -> None:
    error_of(await api.client.post("/v1/boxes", content=body), 400, "invalid_argument")


async def test_a_backslash_before_u0000_is_text_and_no_nul(api: Api) -> None:
    reply = await api.client.post("/v1/boxes", json={"cmd": ["printf", "\\u0000"]})
    assert reply.status_code == 201


async def test_a_name_in_use_is_a_conflict(api: Api) -> None:
    api.supervisor.put("web")
    error = error_of(await api.client.post("/v1/boxes", json={"name": "web"}), 409, "already_exists")
    assert error["type"] == "AlreadyExistsError"


async def test_the_list_is_filtered_and_paged(api: Api) -> None:
    for name in ("a", "b", "c"):
        api.supervisor.put(name)
    api.supervisor.put("r", BoxStatus.RUNNING)
    page = (await api.client.get("/v1/boxes?pageSize=2&status=configured&other=1")).json()
    assert [box["name"] for box in page["boxes"]] == ["a", "b"]
    rest = await api.client.get("/v1/boxes", params={"pageToken": page["next_page_token"], "status": "configured"})
    assert [box["name"] for box in rest.json()["boxes"]] == ["c"]
    assert rest.json()["next_page_token"] is None


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("status=dead", "configured, running, stopping, stopped, paused, failed, unknown"),
        ("pageSize=0", "1 to 1000"),
        ("pageSize=1001", "1 to 1000"),
        ("pageSize=ten", "1 to 1000"),
        ("pageSize=%D9%A3", "1 to 1000"),
        ("pageToken=a%20b", "pageToken"),
    ],
)
async def test_a_bad_query_names_the_key_and_what_is_allowed(api: Api, query: str, says: str) -> None:
    assert says in error_of(await api.client.get(f"/v1/boxes?{query}"), 400, "invalid_argument")["message"]


async def test_head_says_whether_a_box_exists(api: Api) -> None:
    api.supervisor.put("web")
    there = await api.client.head("/v1/boxes/web")
    assert (there.status_code, there.content) == (204, b"")
    gone = await api.client.head("/v1/boxes/other")
    assert (gone.status_code, gone.content) == (404, b"")


async def test_remove_needs_force_for_a_running_box(api: Api) -> None:
    api.supervisor.put("web", BoxStatus.RUNNING)
    error_of(await api.client.delete("/v1/boxes/web?force=0"), 409, "invalid_state")
    error_of(await api.client.delete("/v1/boxes/web?force=yes"), 400, "invalid_argument")
    reply = await api.client.delete("/v1/boxes/web?force=true")
    assert (reply.status_code, reply.content) == (204, b"")
    error_of(await api.client.delete("/v1/boxes/web"), 404, "not_found")


async def test_what_only_memory_knows_is_answered_with_a_warning(api: Api) -> None:
    box = api.supervisor.put("web", warning="another")
    api.supervisor.only_in_memory.add(box.box_id)
    stopped = (await api.client.post("/v1/boxes/web/stop")).json()
    listed = (await api.client.get("/v1/boxes")).json()["boxes"][0]
    for view in (stopped, listed):
        assert "not on the disk" in view["warning"]
        assert view["warning"].endswith("; another")
    api.supervisor.only_in_memory.clear()
    assert (await api.client.get("/v1/boxes/web")).json()["warning"] == "another"


async def test_a_stop_that_names_no_time_takes_the_configured_one(tmp_path: Path) -> None:
    async with served(tmp_path, stop_seconds=4.5) as api:
        api.supervisor.put("web")
        await api.client.post("/v1/boxes/web/stop")
        await api.client.post("/v1/boxes/web/restart", json={"timeout_seconds": None})
        await api.client.post("/v1/boxes/web/stop", json={"timeout_seconds": 0})
        assert api.supervisor.asked == [("stop", 4.5), ("restart", 4.5), ("stop", 0.0)]
        assert (await api.client.get("/v1/config")).json()["defaults"]["stop_timeout_seconds"] == 4.5


async def test_start_stop_restart_kill_and_reset_answer_with_the_box(api: Api) -> None:
    api.supervisor.put("web")
    started = (await api.client.post("/v1/boxes/web/start")).json()
    assert (started["status"], started["pid"]) == ("running", 4242)
    assert started["started_at"].endswith("Z")
    await api.client.post("/v1/boxes/web/restart", json={"timeout_seconds": 2})
    await api.client.post("/v1/boxes/web/kill", json={"signal": "SIGUSR1"})
    await api.client.post("/v1/boxes/web/kill", json={"signal": "term"})
    await api.client.post("/v1/boxes/web/kill")
    stopped = await api.client.post("/v1/boxes/web/stop", content=b"")
    assert (stopped.json()["status"], stopped.json()["stop_cause"]) == ("stopped", "user")
    assert (await api.client.post("/v1/boxes/web/reset-failed", json={})).status_code == 200
    assert api.supervisor.asked == [("restart", 2.0), ("kill", 10), ("kill", 15), ("kill", 9), ("stop", 30.0)]


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("stop", {"timeout_seconds": -1}),
        ("stop", {"timeout_seconds": 3601}),
        ("stop", {"timeout": 3}),
        ("restart", {"timeout_seconds": "1"}),
        ("kill", {"signal": 0}),
        ("kill", {"signal": 32}),
        ("kill", {"signal": "SIGRTMIN"}),
        ("kill", {"signal": "_DFL"}),
        ("kill", {"signal": True}),
        ("wait", {"timeout_seconds": 4000}),
        ("start", {"x": 1}),
    ],
)
async def test_a_bad_command_changes_nothing(api: Api, verb: str, body: dict[str, Any]) -> None:
    api.supervisor.put("web")
    error_of(await api.client.post(f"/v1/boxes/web/{verb}", json=body), 400, "invalid_argument")
    assert api.supervisor.asked == []


async def test_wait_returns_when_the_box_ends(api: Api) -> None:
    box = api.supervisor.put("web", BoxStatus.RUNNING)
    async with trio.open_nursery() as nursery:

        async def end() -> None:
            await api.supervisor.waiting.wait()
            api.supervisor.change(box, status=BoxStatus.STOPPED, exit_code=3)

        nursery.start_soon(end)
        reply = await api.client.post("/v1/boxes/web/wait")
    assert (reply.json()["status"], reply.json()["exit_code"]) == ("stopped", 3)


async def test_wait_past_its_time_is_a_timeout(api: Api) -> None:
    api.supervisor.put("web", BoxStatus.RUNNING)
    reply = await api.client.post("/v1/boxes/web/wait", json={"timeout_seconds": 0})
    assert error_of(reply, 504, "timeout")["type"] == "TimeoutError"


async def test_crash_reports_are_shown_for_this_life_and_the_one_before(api: Api) -> None:
    box = api.supervisor.put("web", BoxStatus.FAILED)
    error_of(await api.client.get("/v1/boxes/web/crash"), 404, "not_found")
    api.supervisor.crashes = {
        (box.box_id, False): Report("now", "d", None),
        (box.box_id, True): Report("before", "d", "engine"),
    }
    now = (await api.client.get("/v1/boxes/web/crash")).json()
    assert now == {"user_message": "now", "debug_info": "d", "error_kind": None}
    assert (await api.client.get("/v1/boxes/web/crash/previous")).json()["user_message"] == "before"


async def test_metrics_of_a_box(api: Api) -> None:
    api.supervisor.put("web")
    assert (await api.client.get("/v1/boxes/web/metrics")).json()["memory_bytes"] == 4096


@pytest.mark.parametrize("ref", ["..%00", "a%2Fb", "%2e%2e%2f", "x" * 300, "-a", "%C3%A9", "a%20b", "%EF%BC%8E"])
async def test_a_reference_that_could_be_no_box_is_refused_before_anyone_looks(api: Api, ref: str) -> None:
    reply = await api.client.get(f"/v1/boxes/{ref}")
    assert reply.status_code in (400, 404)
    error_of(reply, reply.status_code, "invalid_argument" if reply.status_code == 400 else "not_found")
