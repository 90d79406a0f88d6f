"""A page of another site gets nothing done through a browser; programs notice no rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from boxlited.api.listeners import listen_tcp
from tests.unit.test_api_support import Api, error_of, served

TOKEN = "0123456789abcdef0123"
OWN = {"host": "localhost:8000"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        api.supervisor.put("web")
        yield api


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9000"},
        {"origin": "null"},
        {"origin": "http://[broken"},
    ],
)
async def test_a_page_of_another_origin_is_refused(api: Api, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/boxes/web/kill"), ("DELETE", "/v1/boxes/web"), ("GET", "/v1/boxes")):
        reply = await api.client.request(method, path, headers={**OWN, **headers})
        assert "another origin" in error_of(reply, 403, "permission_denied")["message"]
    assert (await api.client.get("/v1/boxes/web")).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "localhost.evil.example", "1.2.3.4.evil.example", "evil.localhost.example", "a.b@["]
)
async def test_a_name_that_somebody_may_have_pointed_here_is_refused(api: Api, host: str) -> None:
    reply = await api.client.get("/v1/boxes", headers={"host": host})
    assert "http://localhost/" in error_of(reply, 403, "permission_denied")["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "boxlited"},
        {"host": "d"},
        {"host": "web.localhost:80"},
        {"host": "127.0.0.1:8000"},
        {"host": "[::1]:8000"},
        {**OWN, "sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy.example"},
        {**OWN, "sec-fetch-site": "none"},
        {**OWN, "origin": "http://LOCALHOST:8000"},
    ],
)
async def test_programs_and_the_own_page_pass(api: Api, headers: dict[str, str]) -> None:
    assert (await api.client.get("/v1/boxes", headers=headers)).status_code == 200


async def test_a_link_from_elsewhere_leads_to_the_page(api: Api) -> None:
    reply = await api.client.get("/ui", headers={**OWN, "sec-fetch-site": "cross-site"})
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")


async def test_with_a_token_any_name_will_do(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    listener = listen_tcp("127.0.0.1:0", token_file)
    headers = {"host": "boxes.example", "authorization": f"Bearer {TOKEN}"}
    async with served(tmp_path, listener), httpx.AsyncClient(base_url=listener.address, trust_env=False) as client:
        assert (await client.get("/v1/boxes", headers=headers)).status_code == 200
        reply = await client.get("/v1/boxes", headers={**headers, "sec-fetch-site": "cross-site"})
        error_of(reply, 403, "permission_denied")
