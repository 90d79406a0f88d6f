"""Counters as Prometheus text, format 0.0.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_COUNTERS = frozenset(  # that only grow, though their names do not end in `_total`
    {
        "total_commands_executed", "total_exec_errors", "events_last_seq", "store_commits", "store_writes",
        "store_failed_commits",
    }
)  # fmt: skip
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_UNSAFE = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Sample = tuple[str, str, int | float]  # name, labels as text, value


def exposition(values: Mapping[str, object]) -> bytes:
    """Each number becomes `boxlited_<name>`; what ends in `_total` or is known to only grow is a counter, else a gauge.

    A mapping called `x_by_y` becomes `x{y="key"}`, another one `name_key`. What is not a number,
    or has a name that Prometheus does not allow, is left out.
    """
    lines: list[str] = []
    announced: set[str] = set()
    for name, labels, value in _samples(values):
        if _NAME.fullmatch(name) is None:
            continue
        if name not in announced:
            announced.add(name)
            lines.append(f"# TYPE boxlited_{name} {_type(name)}\n")
        lines.append(f"boxlited_{name}{labels} {value + 0!r}\n")  # + 0: a bool prints as a number
    return "".join(lines).encode()


def _type(name: str) -> str:
    return "counter" if name.endswith("_total") or name in _COUNTERS else "gauge"


def _samples(values: Mapping[str, object]) -> Iterator[Sample]:
    for name, value in values.items():
        if isinstance(value, int | float):
            yield name, "", value
        elif isinstance(value, Mapping):
            base, by, label = name.partition("_by_")
            for key, item in value.items():
                if isinstance(item, int | float):
                    yield (base, f'{{{label}="{_escaped(key)}"}}', item) if by else (f"{name}_{key}", "", item)


def _escaped(key: object) -> str:
    return str(key).translate(_UNSAFE)
