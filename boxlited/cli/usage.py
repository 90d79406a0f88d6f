"""What running boxes use, asked of the daemon, and its numbers in words."""

from __future__ import annotations

from typing import Any

from boxlited.cli import humanize
from boxlited.cli.session import Session
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


def number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def percent(value: object) -> str:
    return f"{value:.1f}%" if isinstance(value, int | float) else "-"


def size(value: object) -> str:
    return humanize.size(value) if isinstance(value, int | float) else "-"
