"""One request on its way through the API: what the middleware learned and what a handler reads.

Owns the parsing of body and reference. Holds no state beyond the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

import msgspec

from boxlited.api.ports import SupervisorPort
from boxlited.api.principal import Principal
from boxlited.api.query import parse_query
from boxlited.api.replies import Receive, Scope
from boxlited.api.services import Services
from boxlited.errors import InvalidArgument
from boxlited.model import BoxID, check_name

T = TypeVar("T")

MAX_BODY_BYTES = 1024 * 1024


class Call:
    """`status` is None until the reply begins.

    `body` is complete before a handler runs, unless its route streams it: then `body_is_open` is
    true until the last piece was received.
    """

    __slots__ = (
        "_headers", "_query", "body", "body_is_open", "method", "params", "principal", "receive", "request_id",
        "scope", "services", "status",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, services: Services) -> None:
        self.scope = scope
        self.receive = receive
        self.services = services
        self.method: str = scope["method"]
        self.principal: Principal | None = scope["state"].get("principal")
        self.request_id = ""
        self.body = b""
        self.body_is_open = False
        self.params: Mapping[str, str] = {}
        self.status: int | None = None
        self._headers: dict[bytes, bytes] | None = None
        self._query: dict[str, str] | None = None

    @property
    def supervisor(self) -> SupervisorPort:
        return self.services.supervisor

    @property
    def path(self) -> str:
        """As it was sent: ASCII, percent-encoded, safe to log."""
        return str(self.scope["raw_path"], "ascii")

    @property
    def query(self) -> dict[str, str]:
        if self._query is None:
            self._query = parse_query(self.scope["query_string"])
        return self._query

    def header(self, name: bytes) -> str | None:
        """The last value of a header; `name` in lower case."""
        if self._headers is None:
            self._headers = {key.lower(): value for key, value in self.scope["headers"]}
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def ref(self) -> str:
        """The box that the path names: an id or a name, checked before anyone uses it."""
        ref = self.params["ref"]
        if not BoxID.is_valid(ref):
            check_name(ref)
        return ref

    def decode(self, into: type[T]) -> T:
        """The JSON body as a value; an empty body reads as `{}`. Raises InvalidArgument."""
        body = self.body or b"{}"
        try:
            value = _decode(body, into)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"the body is not valid: {error}{_allowed(str(error), into)}") from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"the body is not JSON: {error}") from error
        if b"\\u0000" in self.body and _has_nul(msgspec.to_builtins(value)):
            raise InvalidArgument("the body is not valid: a string holds a NUL character")
        return value


def _decode(body: bytes, into: type[T]) -> T:
    """To JSON, 2.0 is a whole number as good as 2. Tried second, as hardly anyone writes it."""
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.ValidationError:
        return msgspec.convert(_with_whole_numbers(msgspec.json.decode(body)), type=into)


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _with_whole_numbers(item) for key, item in value.items()}
    return [_with_whole_numbers(item) for item in value] if isinstance(value, list) else value


def _allowed(problem: str, into: type) -> str:
    """What an enum allows, which msgspec does not say: "Invalid enum value 'x' - at `$.restart.policy`"."""
    kind: Any = into
    for name in problem.rpartition("`$.")[2].removesuffix("`").split("."):
        is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        kind = (
            next((field.type for field in msgspec.structs.fields(kind) if field.name == name), None)
            if is_struct
            else None
        )
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        return ""
    return f": use one of {', '.join(str(item.value) for item in kind)}"


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(_has_nul(item) for item in value)
