"""Commands through the API against a supervisor in memory: bodies, refusals, signals, and what is shown of them."""

from __future__ import annotations

from typing import Any

import pytest

from boxlited.model import ExecSpec
from tests.unit import attach_harness
from tests.unit.attach_harness import BOX
from tests.unit.test_api_support import Api, error_of

ALLOWED = [1, 2, 3, 6, 10, 12, 15, 28]


api = attach_harness.api


async def test_exec_is_201_with_the_id_and_where_it_is(api: Api) -> None:
    body = {
        "command": "sh", "args": ["-c", "x"], "env": {"A": "b"}, "timeout_seconds": 1.5, "working_dir": "/w",
        "user": "0", "tty": True, "cols": 100, "rows": 30,
    }  # fmt: skip
    reply = await api.client.post(f"{BOX}/exec", json=body, headers={"idempotency-key": "k"})
    assert (reply.status_code, reply.json()) == (201, {"execution_id": "exec-1"})
    assert reply.headers["location"] == f"/v1/boxes/{api.supervisor.get('b').box_id}/executions/exec-1"
    (_, spec, key) = api.supervisor.asked[-1]
    assert key == "k"
    assert spec == ExecSpec(
        command="sh", args=("-c", "x"), env={"A": "b"}, timeout_seconds=1.5, working_dir="/w", user="0", tty=True,
        cols=100, rows=30,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "command"),
        ({"command": ""}, "command"),
        ({"command": 3}, "command"),
        ({"command": "x", "args": "a b"}, "args"),
        ({"command": "x", "args": [1]}, "args"),
        ({"command": "x", "env": {"A": 1}}, "env"),
        ({"command": "x", "env": {"A=B": "c"}}, "env"),
        ({"command": "x", "env": {"": "c"}}, "env"),
        ({"command": "x", "timeout_seconds": 0}, "timeout_seconds"),
        ({"command": "x", "timeout_seconds": -1}, "timeout_seconds"),
        ({"command": "x", "working_dir": ""}, "working_dir"),
        ({"command": "x", "cols": 0}, "cols"),
        ({"command": "x", "rows": 65536}, "rows"),
        ({"command": "x", "tty": "yes"}, "tty"),
        ({"command": "x", "comand": "y"}, "comand"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "x", "args": ["a\0"]}, "NUL"),
        ({"command": "x", "env": {"A\0": "b"}}, "NUL"),
        ({"command": "x", "env": {"A": "\0"}}, "NUL"),
        ({"command": "x", "working_dir": "/\0"}, "NUL"),
        ({"command": "x", "user": "\0"}, "NUL"),
        ([], "object"),
    ],
)
async def test_exec_refuses_what_makes_no_sense_by_name(api: Api, body: Any, named: str) -> None:
    reply = await api.client.post(f"{BOX}/exec", json=body)
    assert named in error_of(reply, 400, "invalid_argument")["message"]
    assert api.supervisor.commands == {}


async def test_a_bad_key_is_refused(api: Api) -> None:
    reply = await api.client.post(f"{BOX}/exec", json={"command": "x"}, headers={"idempotency-key": "a b"})
    error_of(reply, 400, "invalid_argument")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/boxes/none/exec"), ("GET", "/v1/boxes/none/executions"), ("GET", f"{BOX}/executions/none"),
        ("DELETE", f"{BOX}/executions/none"), ("POST", f"{BOX}/executions/none/signal"),
        ("POST", f"{BOX}/executions/none/resize"), ("GET", f"{BOX}/executions/none/attach"),
        ("GET", f"{BOX}/executions/{'x' * 65}"), ("GET", f"{BOX}/executions/a%0ab"), ("GET", f"{BOX}/executions/a.b"),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_404(api: Api, method: str, path: str) -> None:
    body = {"exec": {"command": "x"}, "signal": {"signal": 15}, "resize": {"cols": 1, "rows": 1}}.get(
        path.rsplit("/", maxsplit=1)[-1]
    )
    error_of(await api.client.request(method, path, json=body), 404, "not_found")


async def test_executions_are_shown_as_the_contract_has_them(api: Api) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "sleep"})
    expected = {
        "execution_id": "exec-1", "command": "sleep", "status": "running", "attached": False, "tty": False,
        "exit_code": None, "started_at": "2023-11-14T22:13:20.500000Z", "duration_ms": None, "error_message": None,
    }  # fmt: skip
    assert (await api.client.get(f"{BOX}/executions")).json() == [expected]
    assert (await api.client.get(f"{BOX}/executions/exec-1")).json() == expected


@pytest.mark.parametrize("number", [*range(-1, 40), 2**40])
async def test_signals_of_the_list_and_no_other(api: Api, number: int) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "x"})
    reply = await api.client.post(f"{BOX}/executions/exec-1/signal", json={"signal": number})
    if number in ALLOWED:
        assert (reply.status_code, reply.content) == (204, b"")
        assert api.supervisor.asked[-1] == ("signal", "exec-1", number)
    else:
        assert "15 (SIGTERM)" in error_of(reply, 400, "invalid_argument")["message"]
        assert api.supervisor.asked[-1][0] == "exec"


async def test_resize_and_delete(api: Api) -> None:
    await api.client.post(f"{BOX}/exec", json={"command": "x"})
    reply = await api.client.post(f"{BOX}/executions/exec-1/resize", json={"cols": 80, "rows": 24})
    assert reply.status_code == 204
    assert api.supervisor.asked[-1] == ("resize", "exec-1", 80, 24)
    for body in ({"cols": 0, "rows": 1}, {"cols": 1}, {"cols": 1, "rows": 65536}, {"cols": 1.5, "rows": 1}):
        error_of(await api.client.post(f"{BOX}/executions/exec-1/resize", json=body), 400, "invalid_argument")
    assert (await api.client.delete(f"{BOX}/executions/exec-1")).status_code == 204
    error_of(await api.client.delete(f"{BOX}/executions/exec-1"), 404, "not_found")
