"""The parts of the BoxLite contract that clients of others rely on: what is refused, and in which words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from boxlited.model import BoxSpec
from tests.unit.test_api_support import Api, error_of, served


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as api:
        yield api


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/v1/images", 'image "host"'), ("GET", "/v1/images/library%2Fpython", 'image "host"'),
        ("POST", "/v1/images/pull", 'image "host"'), ("DELETE", "/v1/images/registries/1", 'image "host"'),
        ("POST", "/v1/volumes", "host_path"), ("GET", "/v1/volumes/x", "host_path"),
        ("GET", "/v1/api-keys", "--token-file"), ("DELETE", "/v1/api-keys/x", "--token-file"),
    ],
)  # fmt: skip
async def test_what_the_contract_has_and_the_daemon_has_not_is_unsupported(
    api: Api, method: str, path: str, says: str
) -> None:
    assert says in error_of(await api.client.request(method, path), 422, "unsupported")["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/snapshots"), ("GET", "/snapshots/one"), ("POST", "/snapshots/one/restore"), ("POST", "/clone"),
        ("POST", "/export"), ("POST", "/network/tunnel?port=80"), ("PUT", "/network/inbound"), ("GET", "/attach"),
    ],
)  # fmt: skip
async def test_of_a_box_too_unless_there_is_no_such_box(api: Api, method: str, path: str) -> None:
    box = api.supervisor.put("web")
    for ref in ("web", box.box_id):
        error_of(await api.client.request(method, f"/v1/boxes/{ref}{path}"), 422, "unsupported")
    error_of(await api.client.request(method, f"/v1/boxes/none{path}"), 404, "not_found")
    error_of(await api.client.request(method, f"/v1/boxes/n%20ne{path}"), 400, "invalid_argument")


@pytest.mark.parametrize(
    "path", ["/v1/imagesx", "/v1/image", "/v2/images", "/v1/boxes/web/snapshot", "/v1/boxes/web/x/clone"]
)
async def test_what_is_in_no_contract_is_not_found(api: Api, path: str) -> None:
    api.supervisor.put("web")
    assert "not a route" in error_of(await api.client.get(path), 404, "not_found")["message"]


async def test_secrets_are_refused_and_never_said_again(api: Api) -> None:
    body = {"image": "host", "secrets": [{"name": "k", "value": "hush", "placeholder": "<k>"}]}
    error = error_of(await api.client.post("/v1/boxes", json=body), 422, "unsupported")
    assert "secrets" in error["message"]
    assert "hush" not in error["message"]
    assert (await api.client.post("/v1/boxes", json={"image": "host", "secrets": []})).status_code == 201


async def test_a_box_keeps_every_field_that_was_asked_for(api: Api) -> None:
    """The body of a create is more than a spec, and what is stored is a spec."""
    body = {"name": "web", "image": "host", "cpus": 2.5, "env": {"A": "b"}, "auto_remove": True, "stop_signal": 2}
    assert (await api.client.post("/v1/boxes", json=body)).status_code == 201
    (box,) = api.supervisor.boxes.values()
    assert box.spec == BoxSpec(name="web", image="host", cpus=2.5, env={"A": "b"}, auto_remove=True, stop_signal=2)
    assert type(box.spec) is BoxSpec


@pytest.mark.parametrize("number", ["64.0", "6.4e1", "640e-1"])
async def test_a_whole_number_may_be_written_as_a_fraction(api: Api, number: str) -> None:
    reply = await api.client.post("/v1/boxes", content=f'{{"memory_mib": {number}, "restart": {{"max_retries": 3.0}}}}')
    assert reply.status_code == 201
    (box,) = api.supervisor.boxes.values()
    assert (box.spec.memory_mib, box.spec.restart.max_retries) == (64, 3)


@pytest.mark.parametrize("number", ["64.5", "1e400", '"64.0"', "true", "[64.0]", "-64.0", "6.4e300"])
async def test_what_is_no_whole_number_is_refused(api: Api, number: str) -> None:
    reply = await api.client.post("/v1/boxes", content=f'{{"memory_mib": {number}}}')
    error_of(reply, 400, "invalid_argument")


@pytest.mark.parametrize(("asked", "shown"), [(0.1, 1), (1, 1), (1.5, 2), (255, 255), (256, 255), (4096, 255)])
async def test_processors_are_a_number_that_every_client_can_read(api: Api, asked: float, shown: int) -> None:
    assert (await api.client.post("/v1/boxes", json={"cpus": asked})).json()["cpus"] == shown


@pytest.mark.parametrize(
    ("network", "outbound", "allowed"),
    [
        (None, "disabled", []), ({}, "disabled", []), ({"mode": "enabled"}, "enabled", []),
        ({"outbound": {"mode": "enabled", "allow_net": ["a.b"]}}, "enabled", ["a.b"]),
        ({"mode": "enabled", "allow_net": ["a.b"]}, "enabled", ["a.b"]),
    ],
)  # fmt: skip
async def test_both_forms_of_the_network_are_shown_as_one(
    api: Api, network: dict[str, Any] | None, outbound: str, allowed: list[str]
) -> None:
    box = (await api.client.post("/v1/boxes", json={"network": network})).json()
    closed = {"mode": "disabled", "allow_net": []}
    assert box["network"] == {"outbound": {"mode": outbound, "allow_net": allowed}, "inbound": closed}
