"""The OpenAPI 3.1 document, built from the route table and the schemas of msgspec. Pure.

Owns what the table does not say: which statuses every route has, their headers, who needs a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from boxlited import __version__
from boxlited.api.problems import ErrorBody, UnsupportedMediaType
from boxlited.api.table import Query, RouteDef
from boxlited.errors import BY_CODE
from boxlited.texts import Ref

Json = dict[str, Any]

_PARAMETER = re.compile(r"{(\w+)}")
_REFERENCE = "#/components/schemas/{name}"
_ALWAYS = ("invalid_argument", "permission_denied", "internal", "engine_unavailable")
_DESCRIPTION = """\
Boxes of one host. On the unix socket the kernel says who asks, and no token is wanted; a TCP listener wants the
token of its --token-file. A key of a query string that no route asks for is ignored; one of a body is an error.
A method that a path has not is answered with 405 and `Allow`. HEAD is answered wherever GET is."""
_PATH = {"ref": Query("ref", Ref, "the id or the name of a box", required=True)}
_HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-Id": ("the client's own, when it sent a sane one", {"type": "string", "minLength": 1}),
    "WWW-Authenticate": ("how to say who you are", {"type": "string"}),
    "Retry-After": ("seconds", {"type": "integer", "minimum": 0}),
    "Location": ("where the new one is", {"type": "string", "pattern": "^/v1/"}),
}
_OF_STATUS = {201: ["Location"], 401: ["WWW-Authenticate"], 503: ["Retry-After"]}


@cache
def document(routes: tuple[RouteDef, ...]) -> bytes:
    """The document as JSON. Built once for a table: it never changes while the daemon runs."""
    schemas, components = _schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "boxlited", "version": __version__, "description": _DESCRIPTION},
            "paths": paths,
            "components": {
                "schemas": components,
                "headers": {name: _header(name) for name in _HEADERS},
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"bearer": []}],
        }
    )


def _header(name: str) -> Json:
    description, schema = _HEADERS[name]
    return {"description": description, "required": True, "schema": schema}


def _schemas(routes: Iterable[RouteDef]) -> tuple[dict[Any, Json], Json]:
    """The schema of every type that the table names, and the components that they refer to."""
    types: list[Any] = [ErrorBody, str, *(item.type for item in _PATH.values())]
    for route in routes:
        types += [kind for kind in (route.request, route.response) if kind is not None]
        types += [item.type for item in route.query + route.headers]
    unique = list(dict.fromkeys(types))
    found, components = msgspec.json.schema_components(unique, ref_template=_REFERENCE)
    return dict(zip(unique, found, strict=True)), components


def _operation(route: RouteDef, schemas: dict[Any, Json]) -> Json:
    operation: Json = {
        "operationId": f"{route.method.lower()}_{route.handler.__name__}_{_slug(route.path)}",
        "summary": route.summary,
        "responses": _responses(route, schemas),
    }
    if route.public:
        operation["security"] = []
    if parameters := _parameters(route, schemas):
        operation["parameters"] = parameters
    if body := _request_body(route, schemas):
        operation["requestBody"] = body
    return operation


def _request_body(route: RouteDef, schemas: dict[Any, Json]) -> Json | None:
    if route.request is not None:
        content = {"application/json": {"schema": schemas[route.request]}}
        required = any(field.required for field in msgspec.structs.fields(route.request))
        return {"required": required, "content": content}
    if route.streams_body is not None:
        content = {route.streams_body: {"schema": {"type": "string", "format": "binary"}}}
        return {"required": True, "content": content}
    return None


def _slug(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_")


def _parameters(route: RouteDef, schemas: dict[Any, Json]) -> list[Json]:
    names = _PARAMETER.findall(route.path)
    found = [_parameter(_PATH.get(name) or Query(name, str, "", required=True), "path", schemas) for name in names]
    found += [_parameter(item, "query", schemas) for item in route.query]
    found += [_parameter(item, "header", schemas) for item in route.headers]
    return found


def _parameter(item: Query, place: str, schemas: dict[Any, Json]) -> Json:
    return {
        "name": item.name,
        "in": place,
        "required": item.required,
        "description": item.description,
        "schema": schemas[item.type],
    }


def _responses(route: RouteDef, schemas: dict[Any, Json]) -> Json:
    responses: Json = {}
    if route.status < 400:
        responses[str(route.status)] = _success(route, schemas)
    always = _ALWAYS if route.public else (*_ALWAYS, "unauthenticated")
    codes: dict[int, list[str]] = {}
    for code in (*always, *route.errors, *(("unsupported",) if route.status == 422 else ())):
        codes.setdefault(BY_CODE[code].status, []).append(code)
    if route.streams_body is not None:
        codes[UnsupportedMediaType.status] = [UnsupportedMediaType.code]
    for status, names in sorted(codes.items()):
        responses[str(status)] = {"description": ", ".join(names), "headers": _headers(status)}
        if route.method != "HEAD":
            responses[str(status)]["content"] = {"application/json": {"schema": schemas[ErrorBody]}}
    return responses


def _success(route: RouteDef, schemas: dict[Any, Json]) -> Json:
    reply: Json = {"description": route.summary, "headers": _headers(route.status)}
    if route.status not in (101, 204):
        schema = {"type": "string"} if route.response is None else schemas[route.response]
        reply["content"] = {route.media_type: {"schema": schema}}
    return reply


def _headers(status: int) -> Json:
    names = ["X-Request-Id", *_OF_STATUS.get(status, [])]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
