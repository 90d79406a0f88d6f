"""What running boxes use, asked of the daemon, and its numbers in words."""

from __future__ import annotations

from typing import Any

from boxlited.cli import humanize
from boxlited.cli.session import Session
from boxlited.cli.tables import Column
from boxlited.client.values import BoxInfo
from boxlited.errors import BoxlitedError, InvalidState, NotFound, Stopped

Measured = tuple[BoxInfo, dict[str, Any]]


def measured(session: Session, refs: list[str] | None) -> list[Measured]:
    """A box that ends between the list and the look is left out; one that was named is not."""
    if refs:
        boxes = [session.with_box(ref, session.client.get) for ref in refs]
    else:
        boxes = session.client.list("running")
    found: list[Measured] = []
    for box in boxes:
        try:
            found.append((box, session.client.box_metrics(box["box_id"])))
        except (NotFound, InvalidState, Stopped) as error:
            if refs:
                raise _named(error, box) from error
    return found


def _named(error: BoxlitedError, box: BoxInfo) -> BoxlitedError:
    return error if box["name"] in error.message else type(error)(f"box {box['name']}: {error.message}")


COLUMNS = (
    Column("NAME", least=8),
    Column("ID", drop=5),
    Column("CPU", right=True),
    Column("MEMORY", right=True),
    Column("LIMIT", drop=4, right=True),
    Column("PIDS", drop=2, right=True),
)


def row(box: BoxInfo, use: dict[str, Any]) -> tuple[object, ...]:
    """The cells of COLUMNS."""
    return (
        box.get("name", ""),
        box.get("box_id", "")[:8],
        _percent(use.get("cpu_percent")),
        _size(use.get("memory_bytes")),
        _size(use.get("memory_limit_bytes")),
        use.get("processes", "-"),
    )


def number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _percent(value: object) -> str:
    return f"{value:.1f}%" if isinstance(value, int | float) else "-"


def _size(value: object) -> str:
    return humanize.size(value) if isinstance(value, int | float) else "-"
