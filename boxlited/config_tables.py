"""What a table of the configuration may hold, and everything that is wrong with one, in plain words.

Knows no key of ours: the tables are structs, and their annotations are the rules. Never raises,
whatever TOML or the environment hold; every message is one bounded printable line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

MAX_SHOWN = 100


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables: an unknown key is an error."""


def check_table(content: Mapping[str, Any], table: type[Table], source: str, prefix: str = "") -> list[str]:
    """Every problem of every key, not only the first. `source` says where the content is from."""
    problems: list[str] = []
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    for key, value in content.items():
        dotted = f"{prefix}{key}"
        if key not in fields:
            problems.append(f"{source}: unknown key {shown(dotted)}{_suggest(key, fields)}")
            continue
        kind = fields[key].type
        if isinstance(kind, type) and issubclass(kind, Table) and isinstance(value, Mapping):
            problems += check_table(value, kind, source, f"{dotted}.")
            problems += _missing(value, kind, source, dotted)
        elif get_origin(kind) is dict and isinstance(value, Mapping):
            for name, entry in value.items():
                problems += _check_entry(entry, get_args(kind)[1], source, f"{dotted}.{name}")
        else:
            problems += _check_value(value, kind, source, dotted)
    return problems


def _check_entry(entry: Any, kind: type[Table], source: str, dotted: str) -> list[str]:
    """One table of a table of tables, whose names are free."""
    if not isinstance(entry, Mapping):
        return _check_value(entry, kind, source, dotted)
    return check_table(entry, kind, source, f"{dotted}.") + _missing(entry, kind, source, dotted)


def _missing(content: Mapping[str, Any], table: type[Table], source: str, dotted: str) -> list[str]:
    required = [field.name for field in msgspec.structs.fields(table) if field.required]
    return [f"{source}: {shown(dotted)} lacks the key {name!r}" for name in required if name not in content]


def _check_value(value: Any, kind: Any, source: str, dotted: str) -> list[str]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return [f"{source}: {_named(dotted)} = {shown(value)}: {_explain(error, value, kind)}"]
    except UnicodeError:  # bytes of the environment that are not UTF-8 where words are expected
        return [f"{source}: {_named(dotted)} = {shown(value)}: {_explain(None, value, kind)}"]
    if _holds_nul(value):
        return [f"{source}: {_named(dotted)} = {shown(value)}: must not hold a NUL character"]
    return []


def _holds_nul(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_nul(item) for item in value)
    return isinstance(value, str) and "\0" in value


def _named(dotted: str) -> str:
    return dotted if dotted.isprintable() and len(dotted) <= MAX_SHOWN else shown(dotted)


def shown(value: Any) -> str:
    """A value as one bounded printable line."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "(a number too long to be shown)"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key[:MAX_SHOWN], known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known here: {', '.join(sorted(known))}"


def _explain(error: Exception | None, value: Any, kind: Any) -> str:
    allowed = ", ".join(repr(word) for word in _literals(kind))
    if allowed and (isinstance(value, list) or get_origin(kind) is Literal):
        return f"must be one of {allowed}"
    if allowed:
        return f"must be a list of {allowed}"
    return str(error).replace("`", "'")


def _literals(kind: Any) -> tuple[Any, ...]:
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return arguments
    found: tuple[Any, ...] = ()
    for argument in arguments:
        found += _literals(argument)
    return found
