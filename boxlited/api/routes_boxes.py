"""Handlers of `/v1/boxes`: check what came in, ask the supervisor, show what it says."""

from __future__ import annotations

import re
import signal as signals

from boxlited.api import query
from boxlited.api.call import Call
from boxlited.api.polling import until_disconnect
from boxlited.api.replies import Reply, json_reply, no_content
from boxlited.api.schemas import BoxPage, Crash, CreateBody, KillBody, NoBody, StopBody, WaitBody, box_view
from boxlited.errors import InvalidArgument, Unsupported
from boxlited.model import Box, BoxSpec, BoxStatus, check_name
from boxlited.supervisor.engines import OWN_ENGINES

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
_PAGE_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


async def create(call: Call) -> Reply:
    body = call.decode(CreateBody)
    if body.secrets:
        raise Unsupported("secrets are not supported: give the box what it may know in `env`")
    spec = body.spec()
    _check_spec(spec)
    key = query.idempotency_key(call.header(b"idempotency-key"))
    box = await call.supervisor.create(spec, idempotency_key=key)
    location = b"/v1/boxes/" + box.box_id.encode()
    return json_reply(box_view(box, call.services.host), 201, ((b"location", location),))


def _check_spec(spec: BoxSpec) -> None:
    """What can be said without knowing the host. Raises InvalidArgument or Unsupported."""
    if spec.name is not None:
        check_name(spec.name)
    if spec.image is not None and spec.rootfs_path is not None:
        raise InvalidArgument("image and rootfs_path exclude each other: give one of them")
    if spec.image is not None and spec.image != "host" and spec.engine in OWN_ENGINES:
        raise Unsupported(
            f"image {spec.image[:128]!r} cannot be used: image pulling is not supported by this"
            ' engine; use image "host" or rootfs_path'
        )


async def list_boxes(call: Call) -> Reply:
    status = _status(call.query.get("status"))
    size = query.integer(call.query, "pageSize", 1, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
    token = call.query.get("pageToken") or None
    if token is not None and _PAGE_TOKEN.fullmatch(token) is None:
        raise InvalidArgument("pageToken is not one that a list returned")
    boxes, next_token = call.supervisor.list_boxes(status, size, token)
    host, unrecorded = call.services.host, call.supervisor.unrecorded()
    return json_reply(BoxPage([box_view(box, host, unrecorded) for box in boxes], next_token))


def _status(text: str | None) -> BoxStatus | None:
    if text is None:
        return None
    try:
        return BoxStatus(text)
    except ValueError:
        allowed = ", ".join(status.value for status in BoxStatus)
        raise InvalidArgument(f"status={text[:64]!r} is not a status: use one of {allowed}") from None


async def get(call: Call) -> Reply:
    return _shown(call, call.supervisor.get(call.ref))


async def exists(call: Call) -> Reply:
    call.supervisor.get(call.ref)
    return no_content()


async def remove(call: Call) -> Reply:
    await call.supervisor.remove(call.ref, force=query.boolean(call.query, "force"))
    return no_content()


async def start(call: Call) -> Reply:
    call.decode(NoBody)
    return _shown(call, await call.supervisor.start(call.ref))


async def stop(call: Call) -> Reply:
    return _shown(call, await call.supervisor.stop(call.ref, timeout_seconds=_grace(call)))


async def restart(call: Call) -> Reply:
    return _shown(call, await call.supervisor.restart(call.ref, timeout_seconds=_grace(call)))


def _grace(call: Call) -> float:
    asked = call.decode(StopBody).timeout_seconds
    return call.services.stop_seconds if asked is None else asked


async def kill(call: Call) -> Reply:
    number = signal_number(call.decode(KillBody).signal)
    return _shown(call, await call.supervisor.kill(call.ref, signal=number))


def signal_number(value: int | str) -> int:
    """1..31, from a number or a name with or without SIG. Raises InvalidArgument."""
    if isinstance(value, str):
        name = value.upper().removeprefix("SIG")
        number = getattr(signals, f"SIG{name}", 0) if name.isalnum() else 0
    else:
        number = value
    if not 1 <= number <= 31:
        raise InvalidArgument(f"signal {str(value)[:32]!r} is not 1 to 31 or a name such as SIGTERM")
    return int(number)


async def reset_failed(call: Call) -> Reply:
    call.decode(NoBody)
    return _shown(call, await call.supervisor.reset_failed(call.ref))


async def wait(call: Call) -> Reply:
    """Long poll. Ends early when the client goes away, and with 503 when the daemon stops."""
    timeout = call.decode(WaitBody).timeout_seconds
    ref = call.ref
    box = await until_disconnect(call, lambda: call.supervisor.wait(ref, timeout))
    return no_content() if box is None else _shown(call, box)


async def crash(call: Call) -> Reply:
    return _crash(call, previous=False)


async def crash_previous(call: Call) -> Reply:
    return _crash(call, previous=True)


def _crash(call: Call, previous: bool) -> Reply:
    report = call.supervisor.crash(call.ref, previous=previous)
    return json_reply(Crash(report.user_message, report.debug_info, report.error_kind))


async def metrics(call: Call) -> Reply:
    return json_reply(await call.supervisor.box_metrics(call.ref))


def _shown(call: Call, box: Box) -> Reply:
    return json_reply(box_view(box, call.services.host, call.supervisor.unrecorded()))
