"""The OpenAPI 3.1 document, built from the route table and the schemas of msgspec. Pure."""

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

_PARAMETER = re.compile(r"{(\w+)}")
_REFERENCE = "#/components/schemas/{name}"
_ALWAYS = ("invalid_argument", "unauthenticated", "permission_denied", "internal", "engine_unavailable")

Json = dict[str, Any]


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
            "info": {"title": "boxlited", "version": __version__},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"bearer": []}],
        }
    )


def _schemas(routes: Iterable[RouteDef]) -> tuple[dict[Any, Json], Json]:
    """The schema of every type that the table names, and the components that they refer to."""
    types: list[Any] = [ErrorBody]
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
    if parameters := _parameters(route, schemas):
        operation["parameters"] = parameters
    if route.request is not None:
        content = {"application/json": {"schema": schemas[route.request]}}
        operation["requestBody"] = {"required": False, "content": content}
    if route.streams_body is not None:
        content = {route.streams_body: {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _slug(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_")


def _parameters(route: RouteDef, schemas: dict[Any, Json]) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    found += [_parameter(item, "query", schemas) for item in route.query]
    found += [_parameter(item, "header", schemas) for item in route.headers]
    return found


def _parameter(item: Query, place: str, schemas: dict[Any, Json]) -> Json:
    return {
        "name": item.name,
        "in": place,
        "required": False,
        "description": item.description,
        "schema": schemas[item.type],
    }


def _responses(route: RouteDef, schemas: dict[Any, Json]) -> Json:
    responses: Json = {}
    if route.status < 400:
        responses[str(route.status)] = _success(route, schemas)
    codes: dict[int, list[str]] = {}
    for code in (*_ALWAYS, *route.errors, *(("unsupported",) if route.status == 422 else ())):
        codes.setdefault(BY_CODE[code].status, []).append(code)
    if route.streams_body is not None:
        codes[UnsupportedMediaType.status] = [UnsupportedMediaType.code]
    for status, names in sorted(codes.items()):
        content = {"application/json": {"schema": schemas[ErrorBody]}}
        responses[str(status)] = {"description": ", ".join(names), "content": content}
    return responses


def _success(route: RouteDef, schemas: dict[Any, Json]) -> Json:
    reply: Json = {"description": route.summary}
    if route.status != 204:
        schema = {"type": "string"} if route.response is None else schemas[route.response]
        reply["content"] = {route.media_type: {"schema": schema}}
    if route.status == 201:
        reply["headers"] = {"Location": {"schema": {"type": "string"}}}
    return reply
