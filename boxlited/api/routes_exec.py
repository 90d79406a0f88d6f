"""Handlers of `/v1/boxes/{ref}/exec` and `…/executions`: commands beside a box's workload."""

from __future__ import annotations

import re
import signal as signals
from typing import Any

from boxlited.api import query
from boxlited.api.call import Call
from boxlited.api.replies import Reply, json_reply, no_content
from boxlited.api.schemas import ExecReply, Execution, ResizeBody, SignalBody, execution_view
from boxlited.errors import InvalidArgument, NotFound
from boxlited.model import ExecSpec

# what may be sent to a command; SIGKILL is DELETE, because that forgets it too
ALLOWED_SIGNALS = frozenset(
    {
        signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGABRT,
        signals.SIGUSR1, signals.SIGUSR2, signals.SIGTERM, signals.SIGWINCH,
    }
)  # fmt: skip
_EXECUTION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def exec_command(call: Call) -> Reply:
    spec = call.decode(ExecSpec)
    _check_words(spec)
    key = query.idempotency_key(call.header(b"idempotency-key"))
    box = call.supervisor.get(call.ref)
    execution = await call.supervisor.exec(box.box_id, spec, idempotency_key=key)
    execution_id = str(execution["execution_id"])
    location = f"/v1/boxes/{box.box_id}/executions/{execution_id}".encode()
    return json_reply(ExecReply(execution_id), 201, ((b"location", location),))


def _check_words(spec: ExecSpec) -> None:
    """What no program can be given. Raises InvalidArgument."""
    words = [spec.command, *spec.args, spec.working_dir or "", *spec.env, *spec.env.values()]
    if any("\0" in word for word in words):
        raise InvalidArgument("command, args, working_dir and env must not hold NUL characters")
    if any("=" in name or not name for name in spec.env):
        raise InvalidArgument("the names in env must hold no '=' and not be empty")


async def executions(call: Call) -> Reply:
    found = await call.supervisor.executions(call.ref)
    return json_reply([execution_view(execution) for execution in found])


async def execution(call: Call) -> Reply:
    return json_reply(_shown(await call.supervisor.execution(call.ref, execution_id_of(call))))


async def kill_execution(call: Call) -> Reply:
    await call.supervisor.kill_execution(call.ref, execution_id_of(call))
    return no_content()


async def signal_execution(call: Call) -> Reply:
    number = allowed_signal(call.decode(SignalBody).signal)
    await call.supervisor.signal_execution(call.ref, execution_id_of(call), number)
    return no_content()


async def resize_execution(call: Call) -> Reply:
    body = call.decode(ResizeBody)
    await call.supervisor.resize_execution(call.ref, execution_id_of(call), body.cols, body.rows)
    return no_content()


async def attach_plainly(call: Call) -> Reply:
    """The route without an upgrade; see websockets.py for the one with it."""
    await call.supervisor.execution(call.ref, execution_id_of(call))
    raise InvalidArgument("this route is a WebSocket: ask for the upgrade, or look at the execution itself")


def execution_id_of(call: Call) -> str:
    """Raises NotFound for what no execution is called."""
    execution_id = call.params["execution_id"]
    if _EXECUTION_ID.fullmatch(execution_id) is None:
        raise NotFound(f"there is no execution {execution_id[:100]!r}")
    return execution_id


def allowed_signal(number: int) -> int:
    """Raises InvalidArgument."""
    if number not in ALLOWED_SIGNALS:
        names = ", ".join(f"{int(one)} ({one.name})" for one in sorted(ALLOWED_SIGNALS))
        raise InvalidArgument(f"signal {number} is not allowed here: use {names}, or DELETE to kill")
    return number


def _shown(found: dict[str, Any]) -> Execution:
    return execution_view(found)
