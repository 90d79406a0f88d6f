"""The route table: one line for each method of each path. Data only.

The app is built from it, and so is the OpenAPI document: what is not here is not served.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from boxlited.api import files, openapi, schemas, streaming, ui
from boxlited.api import routes_boxes as boxes
from boxlited.api import routes_exec as commands
from boxlited.api import routes_system as system
from boxlited.api.call import Call
from boxlited.api.replies import Reply
from boxlited.api.table import Query, RouteDef
from boxlited.model import BoxStatus, ExecSpec
from boxlited.texts import HostPath, Key, described

BOX = "/v1/boxes/{ref}"
EXECUTION = BOX + "/executions/{execution_id}"
TEXT = "text/plain"
TAR = "application/x-tar"

_TIMES = [{"pattern": r"^[0-9]{1,12}(\.[0-9]{1,9})?$"}, {"format": "date-time"}]  # Unix seconds, or RFC 3339
_PAGE = (
    Query("status", BoxStatus, "only boxes in this status"),
    Query("pageSize", Annotated[int, Meta(ge=1, le=1000)], "boxes in a page; 100 when absent"),
    Query(
        "pageToken", Annotated[str, described(pattern=r"^[\x21-\x7e]{0,512}$")], "next_page_token of the page before"
    ),
)
_LOGS = (
    Query("follow", bool, "go on until the box stops"),
    Query("tail", Annotated[int, Meta(ge=0, le=streaming.MAX_TAIL)], "only the last lines, as many as this"),
    Query("since", Annotated[str, described(anyOf=_TIMES)], "only what was written after this time"),
)
_SINCE = (
    Query("since", Annotated[int, Meta(ge=0, le=streaming.MAX_SEQ)], "replay the events with a larger number first"),
)
_LAST_EVENT = (Query("Last-Event-ID", Annotated[int, Meta(ge=0, le=streaming.MAX_SEQ)], "as `since`, and stronger"),)
_FORCE = (Query("force", bool, "kill a running box first"),)
_DRY_RUN = (Query("dry_run", bool, "look and decide, do nothing"),)
_KEY = (Query("Idempotency-Key", Key, "a repeat with the same key returns the first box"),)  # fmt: skip

_EXEC_KEY = (Query("Idempotency-Key", Key, "a repeat with the same key returns the first execution"),)  # fmt: skip
_ATTACH = (
    Query(
        "since",
        Annotated[int, Meta(ge=0, le=streaming.MAX_SEQ)],
        "payload bytes, of both channels, that the client has already",
    ),
    Query("stdin", bool, "false: only look"),
)

_PATH = Query("path", Annotated[HostPath, Meta(min_length=1, max_length=4096)], "absolute path inside the box", True)
_PUT_FILES = (
    _PATH,
    Query("overwrite", bool, "replace files that exist; true when absent"),
    Query("source_is_dir", bool, "what the archive is of; when absent, one of a single file is of a file"),
)
_GET_FILES = (_PATH, Query("follow_symlinks", bool, "pack what links inside the directory lead to"))

_ONE = ("not_found",)
_ASK = ("not_found", "invalid_state", "unsupported", "timeout")
_TRANSFER = (*_ASK, "already_exists", "stopped", "resource_exhausted", "storage_error")
_MOVE = ("not_found", "invalid_state", "timeout")
_START = ("not_found", "invalid_state", "unsupported", "resource_exhausted", "timeout")


async def document(call: Call) -> Reply:
    return Reply(200, openapi.document(ROUTES))


def _box(method: str, suffix: str, handler: Any, summary: str, **more: Any) -> RouteDef:
    """A route below one box that answers with the box, unless told otherwise."""
    return RouteDef(method, BOX + suffix, handler, summary, **{"response": schemas.Box, **more})


_BOXES = (
    RouteDef("POST", "/v1/boxes", boxes.create, "Create a box; it is durable before the reply",
             schemas.Box, 201, schemas.CreateBody, headers=_KEY,
             errors=("already_exists", "unsupported", "resource_exhausted")),
    RouteDef("GET", "/v1/boxes", boxes.list_boxes, "List boxes", schemas.BoxPage, query=_PAGE),
    _box("GET", "", boxes.get, "Inspect a box", errors=_ONE),
    _box("HEAD", "", boxes.exists, "Ask whether a box exists", response=None, status=204, errors=_ONE),
    _box("DELETE", "", boxes.remove, "Remove a box", response=None, status=204, query=_FORCE, errors=_MOVE),
    _box("POST", "/start", boxes.start, "Start a box; a running one is left alone", request=schemas.NoBody,
         errors=_START),
    _box("POST", "/stop", boxes.stop, "Stop a box, by force after the time", request=schemas.StopBody, errors=_MOVE),
    _box("POST", "/restart", boxes.restart, "Stop and start a box", request=schemas.StopBody, errors=_START),
    _box("POST", "/kill", boxes.kill, "Send a signal to the workload", request=schemas.KillBody, errors=_MOVE),
    _box("POST", "/wait", boxes.wait, "Wait until a box does not run", request=schemas.WaitBody,
         errors=("not_found", "timeout")),
    _box("POST", "/reset-failed", boxes.reset_failed, "Forget a failure and its restart count", request=schemas.NoBody,
         errors=_MOVE),
    _box("GET", "/crash", boxes.crash, "Why the box died", response=schemas.Crash, errors=_ONE),
    _box("GET", "/crash/previous", boxes.crash_previous, "Why it died the life before",
         response=schemas.Crash, errors=_ONE),
    _box("GET", "/metrics", boxes.metrics, "Resource usage of a box", response=schemas.BoxMetrics, errors=_ONE),
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

_FILES = (
    _box("PUT", "/files", files.put, "Unpack a tar in a running box: all of it, or nothing", response=None, status=204,
         query=_PUT_FILES, streams_body=TAR, errors=_TRANSFER),
    _box("GET", "/files", files.get, "Pack a file or directory of a running box", response=None,
         query=_GET_FILES, media_type=TAR, errors=_TRANSFER),
)  # fmt: skip

_SYSTEM = (
    RouteDef("GET", "/v1/config", system.config, "Capabilities and defaults", schemas.ServerConfig, public=True),
    RouteDef("GET", "/v1/me", system.me, "Who is asking, and what it may do", schemas.Me),
    RouteDef("GET", "/v1/metrics", system.metrics, "Counters of the daemon", schemas.RuntimeMetrics),
    RouteDef("POST", "/v1/reconcile", system.reconcile, "One pass now: what it saw, decided and did",
             schemas.ReconcileReport, request=schemas.NoBody, query=_DRY_RUN),
    RouteDef("GET", "/v1/events", streaming.events, "Every transition, as Server-Sent Events", schemas.Event,
             query=_SINCE, headers=_LAST_EVENT, media_type="text/event-stream"),
    RouteDef("GET", "/v1/openapi.json", document, "This document", dict[str, Any]),
    RouteDef("GET", ui.PATH, ui.page, "The web page", media_type="text/html", public=True),
    RouteDef("GET", "/healthz", system.healthz, "The process answers", schemas.Health, public=True),
    RouteDef("GET", "/readyz", system.readyz, "Recovery has ended", schemas.Health, public=True),
    RouteDef("GET", "/metrics", system.prometheus, "Counters for Prometheus", media_type=TEXT),
)  # fmt: skip

ROUTES: tuple[RouteDef, ...] = _BOXES + _EXEC + _FILES + _SYSTEM
