"""What no schema can say about requests that are meant to be accepted. Loaded by Schemathesis, holds no tests."""

from __future__ import annotations

import io
import itertools
import re
import tarfile
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.openapi.checks import EnsureResourceAvailability

LONGEST_WAIT_SECONDS = 0.2
KEY = re.compile(r"[\x21-\x7e]{1,255}")

_numbers = itertools.count()


def _archive(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


_names = st.text("abcdefgh", min_size=1, max_size=8)
schemathesis.openapi.media_type("application/x-tar", st.dictionaries(_names, st.binary(), min_size=1).map(_archive))


@schemathesis.serializer("application/x-tar")
def send_as_it_is(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leaves out what is meant to be good and is not, by a rule between fields or about the host's files."""
    if not _is_positive(case):
        return True
    if case.operation.label == "POST /v1/boxes" and isinstance(case.body, dict):
        return _is_possible(case.body)
    return not case.query.get("pageToken")  # opaque: only one that a list returned is good


def _make_unique(case: schemathesis.Case, number: int) -> None:
    """Names and keys that come again would hide behind their 409 whatever else is in a create. Some do."""
    if number % 8 == 0:
        return
    if isinstance(case.body, dict) and case.body.get("name") and _is_positive(case):
        case.body = {**case.body, "name": f"named-{number}"}
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = f"key-{number}"


def _is_positive(case: schemathesis.Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def _is_possible(body: dict[str, Any]) -> bool:
    stop, delete = body.get("auto_stop"), body.get("auto_delete")
    network = {key for key, value in (body.get("network") or {}).items() if value is not None}
    guests = [str(volume.get("guest_path")).rstrip("/") for volume in body.get("volumes") or ()]
    return (
        body.get("rootfs_path") is None  # a directory of the host; and it excludes an image
        and not (stop and delete and delete <= stop)
        and not (network & {"mode", "allow_net"} and network & {"outbound", "inbound"})
        and len(guests) == len(set(guests))
        and all(volume.get("host_path") is not None for volume in body.get("volumes") or ())
    )


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Bounds what would be waited for: a wait for a box that goes on, a log that is followed. Names boxes anew."""
    body = case.body
    if case.operation.label == "POST /v1/boxes":
        _make_unique(case, next(_numbers))
    if case.operation.path.endswith("/exec") and isinstance(body, dict) and _is_positive(case) and next(_numbers) % 4:
        case.body = {**body, "command": "true", "working_dir": None}  # the others name what no box has
    waits = case.operation.path.endswith(("/wait", "/stop", "/restart"))
    if waits and _is_positive(case) and (not isinstance(body, dict) or _is_long(body.get("timeout_seconds"))):
        case.body = {"timeout_seconds": LONGEST_WAIT_SECONDS}
    if case.operation.path.endswith("/logs") and str(case.query.get("follow")).lower() in ("true", "1"):
        case.query["follow"] = "false"


def _is_long(seconds: Any) -> bool:
    return seconds is None or (isinstance(seconds, int | float) and seconds > LONGEST_WAIT_SECONDS)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Exception, case: schemathesis.Case, response: Any
) -> bool:
    """A box that has just been made is there, a crash or an execution of it is not: 404 is right."""
    below = case.operation.path.removeprefix("/v1/boxes/{ref}/").startswith(("crash", "executions/"))
    return not (below and isinstance(failure, EnsureResourceAvailability))
