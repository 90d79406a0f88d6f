"""The kinds of text that a client sends, described for the API's document.

Owns the patterns of ids and names. The descriptions cost nothing when a body is read: each rule is checked
by code that names it in its error.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta

ID_PATTERN = re.compile(r"[a-z2-7]{16}")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def described(**schema: Any) -> Meta:
    """JSON Schema that is shown and not enforced."""
    return Meta(extra_json_schema=schema)


_SEGMENT = r"(\.\.[^/\x00]+|\.?[^/\x00.][^/\x00]*)"  # of a path: neither '.' nor '..'
_VARIABLE = {"pattern": r"^[^=\x00]+$"}

Text = Annotated[str, described(pattern=r"^[^\x00]*$")]
Name = Annotated[str, described(pattern=f"^{NAME_PATTERN.pattern}$", **{"not": {"pattern": f"^{ID_PATTERN.pattern}$"}})]
Ref = Annotated[str, described(pattern=f"^{NAME_PATTERN.pattern}$")]  # an id is a possible name
Key = Annotated[str, described(pattern=r"^[\x21-\x7e]{1,255}$")]
HostPath = Annotated[str, described(pattern=r"^/[^\x00]*$")]
GuestPath = Annotated[str, described(pattern=f"^(/{_SEGMENT})+/?$")]
Directory = Annotated[str, described(pattern=r"^(/[^\x00]*)?$")]
Switch = Annotated[str, described(enum=["enabled", "disabled"])]
Environment = Annotated[dict[str, Text], described(propertyNames=_VARIABLE)]
