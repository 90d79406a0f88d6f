"""boxctl commands that show boxes and change nothing: ps, inspect, crash, wait."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from boxlited.cli import escape, exits, humanize, tables
from boxlited.cli.endings import exit_code_of
from boxlited.cli.follow import patiently
from boxlited.cli.options import BoxArgument, BoxesArgument, Format, FormatOption, JsonOption, OnlyJson, session_of
from boxlited.cli.session import complain, say, terminal_width
from boxlited.cli.tables import Column
from boxlited.client.values import BoxInfo
from boxlited.errors import NotFound

SHORT_ID = 8
_STATUSES = ("configured", "running", "stopping", "stopped", "paused", "failed", "unknown")
_COLUMNS = (
    Column("NAME", least=12),
    Column("ID", drop=2),
    Column("STATUS"),
    Column("PID", drop=3, right=True),
    Column("ENGINE", drop=4),
    Column("REASON", drop=5, least=12),
)


def register(app: typer.Typer) -> None:
    app.command()(ps)
    app.command()(inspect)
    app.command()(crash)
    app.command()(wait)


def ps(
    context: typer.Context,
    *,
    status: Annotated[str | None, typer.Option(help="Only boxes that are in this state.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids.")] = False,
    format: FormatOption = Format.TABLE,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Cut nothing, whatever the width.")] = False,
    _all: Annotated[bool, typer.Option("--all", "-a", hidden=True)] = False,
) -> None:
    """List the boxes: all of them, because the ones that failed are why one looks."""
    if status is not None and status not in _STATUSES:
        raise typer.BadParameter(f"{status!r} is not a state; one of {', '.join(_STATUSES)}")
    boxes = session_of(context).client.list(status)
    if format is Format.JSON:
        say(json.dumps(boxes, indent=2))
    elif quiet:
        for box in boxes:
            say(escape.line(box["box_id"] if no_trunc else box["box_id"][:SHORT_ID]))
    else:
        for row in table_of(boxes, time.time(), None if no_trunc else terminal_width(), no_trunc):
            say(row)


def table_of(boxes: Sequence[BoxInfo], now: float, width: int | None, full_ids: bool) -> list[str]:
    """The lines of `ps`, none wider than `width` cells."""
    ids = [box.get("box_id", "") for box in boxes]
    rows = [
        (
            box.get("name", ""),
            box_id if full_ids else box_id[:SHORT_ID],
            humanize.state(box, now),
            box.get("pid") or "",
            box.get("engine", ""),
            humanize.reason(box),
        )
        for box, box_id in zip(boxes, ids, strict=True)
    ]
    return tables.render(_COLUMNS, rows, width)


def inspect(context: typer.Context, boxes: BoxesArgument, _format: JsonOption = OnlyJson.JSON) -> None:
    """Show everything about boxes, as JSON."""
    session = session_of(context)
    found: list[BoxInfo] = []
    code = session.each(boxes, lambda ref: found.append(session.client.get(ref)), quiet=True)
    say(json.dumps(found, indent=2))
    raise typer.Exit(code)


def crash(
    context: typer.Context,
    box: BoxArgument,
    previous: Annotated[bool, typer.Option("--previous", help="The life before the current one.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Say why a box died."""
    session = session_of(context)
    try:
        report = session.with_box(box, lambda ref: session.client.crash(ref, previous=previous))
    except NotFound as error:
        state = humanize.state(session.with_box(box, session.client.get), time.time())
        complain(error.message, f"the box is {state}; `boxctl logs` shows what it wrote")
        raise typer.Exit(exits.FAILED) from error
    if format is Format.JSON:
        say(json.dumps(report, indent=2))
        return
    say(escape.text(report.get("user_message", "")).rstrip())
    if report.get("debug_info"):
        say("\n" + escape.text(report["debug_info"]).rstrip())


def wait(
    context: typer.Context,
    boxes: BoxesArgument,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds.")] = None,
) -> None:
    """Wait until boxes stop and print their exit codes; the last one's is boxctl's own."""
    session = session_of(context)
    codes: list[int] = []

    def wait_for(ref: str) -> None:
        codes.append(exit_code_of(patiently(lambda: session.client.wait(ref, timeout))))
        say(str(codes[-1]))

    failed = session.each(boxes, wait_for, quiet=True)
    raise typer.Exit(failed or codes[-1])
