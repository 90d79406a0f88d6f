"""Counters as Prometheus text, format 0.0.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def exposition(values: Mapping[str, object]) -> bytes:
    """Each number becomes `boxlited_<name>`; what ends in `_total` is a counter, else a gauge.

    What is not a number, or has a name that Prometheus does not allow, is left out.
    """
    lines: list[str] = []
    for name, value in values.items():
        if not isinstance(value, int | float) or _NAME.fullmatch(name) is None:
            continue
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# TYPE boxlited_{name} {kind}\nboxlited_{name} {_number(value)}\n")
    return "".join(lines).encode()


def _number(value: int | float) -> str:
    return repr(value + 0)  # + 0: a bool prints as a number
