"""boxctl top: the running boxes by what they use, live on a terminal, once elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from typing import Annotated

import typer

from boxlited.cli import humanize, tables, usage
from boxlited.cli.follow import patiently
from boxlited.cli.options import Format, FormatOption, SomeBoxesArgument, session_of
from boxlited.cli.session import Session, say, terminal_width
from boxlited.cli.tables import Column
from boxlited.cli.usage import Measured

_COLUMNS = (*usage.COLUMNS, Column("UPTIME", drop=3, right=True))


def register(app: typer.Typer) -> None:
    app.command()(top)


def top(
    context: typer.Context,
    boxes: SomeBoxesArgument = None,
    interval: Annotated[float, typer.Option("--interval", "-n", min=0.1, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show the running boxes, the busiest first; Ctrl-C ends it."""
    session = session_of(context)
    if format is Format.JSON:
        found = busiest_first(usage.measured(session, boxes))
        say(json.dumps([{"box_id": box["box_id"], "name": box["name"], **use} for box, use in found], indent=2))
    elif once or not sys.stdout.isatty():
        for row in lines_of(usage.measured(session, boxes), time.time(), terminal_width(), None):
            say(row)
    else:
        try:
            _live(session, boxes, interval)
        except KeyboardInterrupt:
            return


def _live(session: Session, boxes: list[str] | None, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    measure = partial(usage.measured, session, boxes)
    found = measure()
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            size = shutil.get_terminal_size()
            shown = lines_of(found, time.time(), size.columns, size.lines)
            live.update(Text("\n".join(shown), no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(interval)
            found = patiently(measure, lost=True)


def busiest_first(found: list[Measured]) -> list[Measured]:
    return sorted(found, key=lambda one: (-usage.number(one[1].get("cpu_percent")), one[0].get("name", "")))


def lines_of(found: list[Measured], now: float, width: int | None, height: int | None) -> list[str]:
    """A summary, the table, and where it is cut how many boxes are missing; all of it fits."""
    rows = [(*usage.row(box, use), _uptime(box.get("started_at"), now)) for box, use in busiest_first(found)]
    lines = [_summary(found), *tables.render(_COLUMNS, rows, width)]
    if height is not None and len(lines) > height:
        missing = len(lines) - height + 1
        lines = [*lines[: max(height - 1, 1)], f"and {missing} more"]
    return lines if width is None else [tables.cut(line, width) for line in lines]


def _summary(found: list[Measured]) -> str:
    cpu = sum(usage.number(use.get("cpu_percent")) for _, use in found)
    memory = sum(usage.number(use.get("memory_bytes")) for _, use in found)
    boxes = "1 box runs" if len(found) == 1 else f"{len(found)} boxes run"
    return f"{boxes}   cpu {cpu:.1f}%   memory {humanize.size(memory)}"


def _uptime(started: object, now: float) -> str:
    at = humanize.timestamp(started)
    return "-" if at is None else humanize.duration(now - at)
