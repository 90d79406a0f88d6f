"""Routes about the daemon, and what every route shares: ids, errors, readiness, access."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from boxlited.api.listeners import listen_tcp, listen_unix, read_only_path
from boxlited.api.routes import ROUTES
from boxlited.model import Box
from tests.unit.test_api_support import Api, MemorySupervisor, error_of, served, unix_client

TOKEN = "0123456789abcdef0123"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        yield api


async def test_config_shows_defaults_and_capabilities(api: Api) -> None:
    config = (await api.client.get("/v1/config")).json()
    assert config["defaults"]["image"] == "host"
    assert config["capabilities"]["tty_enabled"] is False
    assert config["version"]
    assert config["home"] == "/the/home"


async def test_me_is_the_uid_of_the_peer(api: Api) -> None:
    me = (await api.client.get("/v1/me")).json()
    assert re.fullmatch(r"uid:\d+", me["sub"])
    assert (me["principal_type"], me["path_prefix"]) == ("user", None)
    assert me["scopes"] == ["box:read", "me:read", "box:write", "box:exec", "box:delete"]


async def test_metrics_as_json_and_as_prometheus_text(api: Api) -> None:
    api.supervisor.put("web")
    assert (await api.client.get("/v1/metrics")).json()["boxes_created_total"] == 1
    reply = await api.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE boxlited_boxes_created_total counter\nboxlited_boxes_created_total 1\n" in reply.text
    assert "# TYPE boxlited_boxes_running gauge" in reply.text


async def test_reconcile_tells_what_it_saw(api: Api) -> None:
    box = api.supervisor.put("web")
    report = (await api.client.post("/v1/reconcile?dry_run=1")).json()
    assert report == {"dry_run": True, "boxes": [{"box_id": box.box_id, "action": "none"}]}


async def test_the_openapi_document_lists_every_route_and_resolves(api: Api) -> None:
    reply = await api.client.get("/v1/openapi.json")
    document = reply.json()
    for route in ROUTES:
        assert route.method.lower() in document["paths"][route.path]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', reply.text):
        assert name in document["components"]["schemas"]
    names = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(names) == len(set(names)) == len(ROUTES)


async def test_a_sane_request_id_is_kept_and_another_one_replaced(api: Api) -> None:
    reply = await api.client.get("/healthz", headers={"X-Request-Id": "abc-1.2"})
    assert reply.headers["x-request-id"] == "abc-1.2"
    for bad in ("a b", "x" * 129, "a;b"):
        reply = await api.client.get("/v1/boxes/none", headers={"X-Request-Id": bad})
        assert error_of(reply, 404, "not_found")["request_id"].startswith("req_")


async def test_unknown_paths_and_methods_have_the_shape_of_every_error(api: Api) -> None:
    error_of(await api.client.get("/v2/boxes"), 404, "not_found")
    error_of(await api.client.get("/v1/boxes/"), 404, "not_found")
    reply = await api.client.put("/v1/boxes/web")
    assert "DELETE, GET, HEAD" in error_of(reply, 405, "invalid_argument")["message"]
    assert reply.headers["allow"] == "DELETE, GET, HEAD"


class Broken(MemorySupervisor):
    def get(self, ref: str) -> Box:
        raise RuntimeError("a secret of the inside")


async def test_a_bug_is_an_internal_error_whose_traceback_is_in_the_log_only(tmp_path: Path) -> None:
    async with served(tmp_path, supervisor=Broken()) as api:
        with capture_logs() as logs:
            reply = await api.client.get("/v1/boxes/web")
        error = error_of(reply, 500, "internal")
        assert "secret" not in reply.text
        assert [entry["request_id"] for entry in logs if entry["event"] == "api_bug"] == [error["request_id"]]
        assert (await api.client.get("/healthz")).status_code == 200


async def test_until_ready_everything_but_healthz_is_unavailable(api: Api) -> None:
    api.supervisor.is_ready = False
    assert (await api.client.get("/healthz")).json() == {"status": "ok"}
    for method, path in (("GET", "/readyz"), ("GET", "/v1/boxes"), ("POST", "/v1/boxes"), ("GET", "/v1/config")):
        reply = await api.client.request(method, path)
        error_of(reply, 503, "engine_unavailable")
        assert reply.headers["retry-after"] == "1"
    api.supervisor.is_ready = True
    assert (await api.client.get("/readyz")).status_code == 200


async def test_every_mutating_call_is_logged_with_who_did_it(api: Api) -> None:
    api.supervisor.put("web")
    with capture_logs() as logs:
        await api.client.get("/v1/boxes/web")
        reply = await api.client.delete("/v1/boxes/web")
    (entry,) = [entry for entry in logs if entry["event"] == "api_call"]
    assert entry["request_id"] == reply.headers["x-request-id"]
    assert (entry["method"], entry["path"], entry["status"]) == ("DELETE", "/v1/boxes/web", 204)
    assert isinstance(entry["uid"], int)
    assert isinstance(entry["pid"], int)
    assert entry["ms"] >= 0


async def test_the_read_only_socket_reads_and_does_not_write(tmp_path: Path) -> None:
    path = read_only_path(tmp_path / "b.sock")
    async with served(tmp_path, listen_unix(path, read_only=True)) as api, unix_client(path) as client:
        api.supervisor.put("web")
        assert (await client.get("/v1/boxes/web")).status_code == 200
        assert (await client.head("/v1/boxes/web")).status_code == 204
        assert (await client.get("/v1/me")).json()["scopes"] == ["box:read", "me:read"]
        for method, target in (("POST", "/v1/boxes"), ("DELETE", "/v1/boxes/web"), ("PUT", "/v1/boxes/web/files")):
            reply = await client.request(method, target)
            assert "read-only" in error_of(reply, 403, "permission_denied")["message"]
        assert list(api.supervisor.boxes)


async def test_the_tcp_listener_asks_for_the_token(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    token_file.chmod(0o600)
    listener = listen_tcp("127.0.0.1:0", token_file)
    async with served(tmp_path, listener) as api:
        import httpx

        async with httpx.AsyncClient(base_url=listener.address, trust_env=False) as client:
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
                reply = await client.get("/v1/boxes", headers=headers)
                error_of(reply, 401, "unauthenticated")
                assert reply.headers["www-authenticate"].startswith("Bearer")
            assert (await client.get("/v1/config")).json()["home"] is None  # nobody has said who asks
            assert (await client.get("/healthz")).status_code == 200
            error_of(await client.get("/metrics"), 401, "unauthenticated")
            good = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.post("/v1/boxes", json={"name": "web"}, headers=good)).status_code == 201
            me = (await client.get("/v1/me", headers=good)).json()
            assert (me["sub"], me["principal_type"]) == ("token", "service_account")
        assert len(api.supervisor.boxes) == 1
