"""Reading values from a query string or a header: strict, and with an error that names the key.

Pure. A key that nobody asks for is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qsl

from boxlited.errors import InvalidArgument

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")


def parse_query(raw: bytes) -> dict[str, str]:
    """The last value of each key. Raises InvalidArgument when it is no query string."""
    if not raw:
        return {}
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=64))
    except ValueError as error:
        raise InvalidArgument(f"the query string cannot be read: {error}") from error


def boolean(query: Mapping[str, str], key: str, default: bool = False) -> bool:
    text = query.get(key)
    if text is None:
        return default
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise InvalidArgument(f"{key}={_shown(text)} is not a boolean: use true, false, 1 or 0")
    return value


def integer(query: Mapping[str, str], key: str, low: int, high: int) -> int | None:
    """None when the key is absent. ASCII digits only, within low..high."""
    text = query.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high):
        raise InvalidArgument(f"{key}={_shown(text)} is not a whole number from {low} to {high}")
    return int(text)


def unix_time(query: Mapping[str, str], key: str) -> float | None:
    """Unix seconds, or an RFC 3339 time with its offset."""
    text = query.get(key)
    if text is None:
        return None
    try:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            return float(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidArgument(
            f"{key}={_shown(text)} is not a time: use Unix seconds or RFC 3339 (2030-01-31T12:00:00Z)"
        )
    return moment.timestamp()


def idempotency_key(text: str | None) -> str | None:
    if text is not None and _VISIBLE.fullmatch(text) is None:
        raise InvalidArgument("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return text


def _shown(text: str) -> str:
    return repr(text[:64])
