"""Bodies and query strings of the API: a checked value, or an error of the contract."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from boxlited.api import query, routes_boxes, routes_exec, websockets
from boxlited.api.call import Call
from boxlited.api.problems import error_reply
from boxlited.api.replies import json_reply
from boxlited.api.schemas import KillBody, NoBody, ResizeBody, SignalBody, StopBody, WaitBody, box_view
from boxlited.errors import BoxlitedError
from boxlited.model import Box, BoxSpec, ExecSpec
from boxlited.store.codec import box_from_row, box_values
from tests.fuzz.targets.box_json import BOX_ID, ENGINES, HOME, HOST

BODIES: tuple[type[Any], ...] = (BoxSpec, ExecSpec, StopBody, WaitBody, KillBody, SignalBody, ResizeBody, NoBody)


def check(data: bytes) -> None:
    """The first byte says which body it is; beyond them, a query string or a text frame."""
    which, body = (data[0] if data else 0) % (len(BODIES) + 2), data[1:]
    try:
        if which < len(BODIES):
            _check_body(BODIES[which], body)
        elif which == len(BODIES):
            _check_query(body)
        else:
            control = websockets._control(body.decode("utf-8", "replace"))
            websockets._convert(control, ResizeBody)
    except BoxlitedError as error:
        reply = error_reply(error, "request-1")
        assert 400 <= reply.status < 500, reply
        assert json.loads(reply.body)["error"]["message"]


def _check_body(kind: type[Any], body: bytes) -> None:
    scope = {"method": "POST", "state": {}, "headers": [], "query_string": b"", "raw_path": b"/"}
    call = Call(scope, None, None)  # type: ignore[arg-type]
    call.body = body
    value = call.decode(kind)
    if isinstance(value, BoxSpec):
        _check_box(value)
    elif isinstance(value, ExecSpec):
        routes_exec._check_words(value)
        request = json.loads(json.dumps(msgspec.to_builtins(value)))
        assert request["command"] == value.command
        " ".join((*value.args, *value.env, *value.env.values())).encode()
    elif isinstance(value, KillBody):
        assert 1 <= routes_boxes.signal_number(value.signal) <= 31
    elif isinstance(value, SignalBody):
        assert routes_exec.allowed_signal(value.signal) in routes_exec.ALLOWED_SIGNALS


def _check_box(spec: BoxSpec) -> None:
    """All that happens to a spec between the request and the shim."""
    routes_boxes._check_spec(spec)
    ENGINES.check(spec)
    box = Box(box_id=BOX_ID, name=spec.name or "box", spec=spec)
    assert box_from_row(box_values(box)) == box
    json_reply(box_view(box, HOST))
    shim_spec = json.loads(ENGINES.shim_spec(box, "run", HOME.box(BOX_ID)))
    words = [*shim_spec["argv"], *shim_spec["env"], *shim_spec["env"].values(), shim_spec["working_dir"] or ""]
    for word in [*words, shim_spec["hostname"], *(volume["host_path"] for volume in shim_spec["volumes"])]:
        assert "\0" not in word
        word.encode()


def _check_query(body: bytes) -> None:
    values = query.parse_query(body)
    query.boolean(values, "force")
    query.integer(values, "tail", 0, 10**6)
    query.unix_time(values, "since")
    query.idempotency_key(values.get("key"))
