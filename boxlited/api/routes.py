"""The route table: one line for each method of each path. Data only.

The app is built from it, and so is the OpenAPI document: what is not here is not served.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from boxlited.api import openapi, schemas, streaming, ui
from boxlited.api import routes_boxes as boxes
from boxlited.api import routes_exec as commands
from boxlited.api import routes_system as system
from boxlited.api.call import Call
from boxlited.api.replies import Reply
from boxlited.api.table import Query, RouteDef
from boxlited.model import BoxSpec, BoxStatus, ExecSpec

BOX = "/v1/boxes/{ref}"
EXECUTION = BOX + "/executions/{execution_id}"
TEXT = "text/plain"

_PAGE = (
    Query("status", BoxStatus, "only boxes in this status"),
    Query("pageSize", Annotated[int, Meta(ge=1, le=1000)], "boxes in a page; 100 when absent"),
    Query("pageToken", str, "next_page_token of the page before"),
)
_LOGS = (
    Query("follow", bool, "go on until the box stops"),
    Query("tail", Annotated[int, Meta(ge=0)], "only the last lines, as many as this"),
    Query("since", str, "only what was written after this time: Unix seconds or RFC 3339"),
)
_SINCE = (Query("since", Annotated[int, Meta(ge=0)], "replay the events with a larger number first"),)
_LAST_EVENT = (Query("Last-Event-ID", Annotated[int, Meta(ge=0)], "as `since`, and stronger"),)
_FORCE = (Query("force", bool, "kill a running box first"),)
_DRY_RUN = (Query("dry_run", bool, "look and decide, do nothing"),)
_KEY = (Query("Idempotency-Key", Annotated[str, Meta(min_length=1, max_length=255)], "a repeat with the same key returns the first box"),)  # fmt: skip  # noqa: E501

_EXEC_KEY = (Query("Idempotency-Key", Annotated[str, Meta(min_length=1, max_length=255)], "a repeat with the same key returns the first execution"),)  # fmt: skip  # noqa: E501
_ATTACH = (
    Query("since", Annotated[int, Meta(ge=0)], "payload bytes, of both channels, that the client has already"),
    Query("stdin", bool, "false: only look"),
)

_ONE = ("not_found",)
_ASK = ("not_found", "invalid_state", "unsupported", "timeout")
_MOVE = ("not_found", "invalid_state")


async def document(call: Call) -> Reply:
    return Reply(200, openapi.document(ROUTES))


def _box(method: str, suffix: str, handler: Any, summary: str, **more: Any) -> RouteDef:
    """A route below one box that answers with the box, unless told otherwise."""
    return RouteDef(method, BOX + suffix, handler, summary, **{"response": schemas.Box, **more})


def _later(method: str, path: str, summary: str) -> RouteDef:
    """In the contract, not in this version: 422."""
    summary = f"{summary} (not in this version)"
    return RouteDef(method, path, boxes.unsupported, summary, status=422, errors=_ONE)


_BOXES = (
    RouteDef("POST", "/v1/boxes", boxes.create, "Create a box; it is durable before the reply",
             schemas.Box, 201, BoxSpec, headers=_KEY, errors=("already_exists", "unsupported", "resource_exhausted")),
    RouteDef("GET", "/v1/boxes", boxes.list_boxes, "List boxes", schemas.BoxPage, query=_PAGE),
    _box("GET", "", boxes.get, "Inspect a box", errors=_ONE),
    _box("HEAD", "", boxes.exists, "Ask whether a box exists", response=None, status=204, errors=_ONE),
    _box("DELETE", "", boxes.remove, "Remove a box", response=None, status=204, query=_FORCE, errors=_MOVE),
    _box("POST", "/start", boxes.start, "Start a box; a running one is left alone", errors=_MOVE),
    _box("POST", "/stop", boxes.stop, "Stop a box, by force after the time", request=schemas.StopBody, errors=_MOVE),
    _box("POST", "/restart", boxes.restart, "Stop and start a box", request=schemas.StopBody, errors=_MOVE),
    _box("POST", "/kill", boxes.kill, "Send a signal to the workload", request=schemas.KillBody, errors=_MOVE),
    _box("POST", "/wait", boxes.wait, "Wait until a box does not run", request=schemas.WaitBody,
         errors=("not_found", "timeout")),
    _box("POST", "/reset-failed", boxes.reset_failed, "Forget a failure and its restart count", errors=_MOVE),
    _box("GET", "/crash", boxes.crash, "Why the box died", response=schemas.Crash, errors=_ONE),
    _box("GET", "/crash/previous", boxes.crash_previous, "Why it died the life before",
         response=schemas.Crash, errors=_ONE),
    _box("GET", "/metrics", boxes.metrics, "Resource usage of a box", response=dict[str, Any], errors=_ONE),
    _box("GET", "/logs", streaming.logs, "The console log, as the box wrote it", response=None,
         query=_LOGS, media_type=TEXT, errors=_ONE),
)  # fmt: skip

_EXEC = (
    RouteDef("POST", BOX + "/exec", commands.exec_command, "Start a command in a box, and the box where need be",
             schemas.ExecReply, 201, ExecSpec, headers=_EXEC_KEY,
             errors=("not_found", "invalid_state", "unsupported", "resource_exhausted", "timeout")),
    RouteDef("GET", BOX + "/executions", commands.executions, "The commands of this run of the box",
             list[schemas.Execution], errors=_ASK),
    RouteDef("GET", EXECUTION, commands.execution, "Look at a command", schemas.Execution, errors=_ASK),
    RouteDef("DELETE", EXECUTION, commands.kill_execution, "Kill a command and forget it", status=204, errors=_ASK),
    RouteDef("POST", EXECUTION + "/signal", commands.signal_execution, "Send a signal to a command",
             status=204, request=schemas.SignalBody, errors=_ASK),
    RouteDef("POST", EXECUTION + "/resize", commands.resize_execution, "Resize the terminal of a command",
             status=204, request=schemas.ResizeBody, errors=_ASK),
    RouteDef("GET", EXECUTION + "/attach", commands.attach_plainly, "Attach to a command (WebSocket)",
             status=101, query=_ATTACH, errors=(*_ASK, "already_exists")),
)  # fmt: skip

_LATER = (
    _later("PUT", BOX + "/files", "Put files into a box"),
    _later("GET", BOX + "/files", "Get files out of a box"),
)

_SYSTEM = (
    RouteDef("GET", "/v1/config", system.config, "Capabilities and defaults", schemas.ServerConfig),
    RouteDef("GET", "/v1/me", system.me, "Who is asking, and what it may do", schemas.Me),
    RouteDef("GET", "/v1/metrics", system.metrics, "Counters of the daemon", dict[str, Any]),
    RouteDef("POST", "/v1/reconcile", system.reconcile, "One pass now: what it saw, decided and did",
             schemas.ReconcileReport, query=_DRY_RUN),
    RouteDef("GET", "/v1/events", streaming.events, "Every transition, as Server-Sent Events", schemas.Event,
             query=_SINCE, headers=_LAST_EVENT, media_type="text/event-stream"),
    RouteDef("GET", "/v1/openapi.json", document, "This document", dict[str, Any]),
    RouteDef("GET", ui.PATH, ui.page, "The web page", media_type="text/html"),
    RouteDef("GET", "/healthz", system.healthz, "The process answers", schemas.Health),
    RouteDef("GET", "/readyz", system.readyz, "Recovery has ended", schemas.Health),
    RouteDef("GET", "/metrics", system.prometheus, "Counters for Prometheus", media_type=TEXT),
)  # fmt: skip

ROUTES: tuple[RouteDef, ...] = _BOXES + _EXEC + _LATER + _SYSTEM
