"""What a shim says of executions, checked: it may have been taken over by its box, and is believed in nothing
that a client could not bear. Pure. A word that is none is EngineUnavailable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from boxlited.errors import EngineUnavailable

ExitCode = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]

T = TypeVar("T")


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """As `boxlited.shim.executions` shows it. The id becomes a part of paths and of a header."""

    execution_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
    command: str
    status: Literal["running", "completed", "killed", "timed_out"]
    attached: bool
    tty: bool
    exit_code: ExitCode | None
    started_at: float
    duration_ms: Count | None
    error_message: str | None


class _One(msgspec.Struct, frozen=True):
    execution: Execution


class _All(msgspec.Struct, frozen=True):
    executions: list[Execution]


class _Attached(msgspec.Struct, frozen=True):
    position: Count
    queued: Count


def _checking(read: Callable[[Any], T]) -> Callable[[Any], T]:
    @wraps(read)
    def checked(said: Any) -> T:
        try:
            return read(said)
        except (ValueError, RecursionError) as error:  # msgspec's own, and text that is no UTF-8
            raise EngineUnavailable("the shim gave an answer that is none") from error

    return checked


@_checking
def reply(payload: bytes) -> dict[str, Any]:
    """The JSON of a REPLY. Text in it can be encoded again, and numbers are numbers of JSON."""
    return msgspec.json.decode(payload, type=dict[str, Any])


@_checking
def execution(said: dict[str, Any]) -> dict[str, Any]:
    return _plain(msgspec.convert(said, _One).execution)


@_checking
def executions(said: dict[str, Any]) -> list[dict[str, Any]]:
    return [_plain(one) for one in msgspec.convert(said, _All).executions]


@_checking
def attached(said: dict[str, Any]) -> tuple[int, int]:
    """Position, and bytes of input that are queued."""
    found = msgspec.convert(said, _Attached)
    return found.position, found.queued


@_checking
def ending(payload: bytes) -> bytes:
    """The JSON of an EXIT, with nothing in it but an execution."""
    return msgspec.json.encode(msgspec.json.decode(payload, type=Execution))


def _plain(one: Execution) -> dict[str, Any]:
    return msgspec.structs.asdict(one)
