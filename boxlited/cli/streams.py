"""boxctl commands that last as long as there is something to say: logs, events, stats."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Annotated

import typer

from boxlited.cli import follow as following
from boxlited.cli import parse, tables, usage
from boxlited.cli.event_lines import event_line
from boxlited.cli.options import BoxArgument, Format, FormatOption, SomeBoxesArgument, session_of
from boxlited.cli.session import Session, say, terminal_width
from boxlited.client.errors import ConnectionLost
from boxlited.client.values import EventInfo


def register(app: typer.Typer) -> None:
    app.command()(logs)
    app.command()(events)
    app.command()(stats)


def logs(
    context: typer.Context,
    box: BoxArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the box stops.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last N lines.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what is newer: 10m, a date, Unix seconds.")] = None,
) -> None:
    """Show what a box has written."""
    session = session_of(context)
    moment = None if since is None else parse.since(since, time.time())
    following.show_log(session, box, following.Wanted(follow=follow, tail=tail, since=moment))


def events(
    context: typer.Context,
    since: Annotated[int | None, typer.Option(min=0, help="First those after this number.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with new ones.")] = True,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show what happens to boxes as it happens, one event a line."""
    for event in _events(session_of(context), since, follow):
        print(json.dumps(event) if format is Format.JSON else event_line(event), flush=True)


def _events(session: Session, since: int | None, follow: bool) -> Iterator[EventInfo]:
    """Over restarts of the daemon: it goes on after the last number that was seen."""
    lost = False
    if since is None and follow:
        since = session.client.last_event_seq()
    while True:
        try:
            opened = following.patiently(partial(session.client.events, since, follow=follow), lost)
            with opened as stream:
                for event in stream:
                    since = event.get("seq", since)
                    yield event
            if not follow:
                return
        except ConnectionLost:
            if not follow:
                raise
        lost = True
        time.sleep(following.PAUSE_SECONDS)


def stats(
    context: typer.Context,
    boxes: SomeBoxesArgument = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Once, and not again and again.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show how much processor and memory running boxes use."""
    session = session_of(context)
    screen = sys.stdout.isatty() and not no_stream and format is Format.TABLE
    while True:
        measured = usage.measured(session, boxes)
        if format is Format.JSON:
            say(json.dumps([{"box_id": box["box_id"], "name": box["name"], **use} for box, use in measured]))
        else:
            lines = stats_table(measured, terminal_width())
            say("\x1b[H\x1b[J" * screen + "\n".join(lines))
        sys.stdout.flush()
        if no_stream:
            return
        time.sleep(interval)


def stats_table(measured: list[usage.Measured], width: int | None) -> list[str]:
    return tables.render(usage.COLUMNS, [usage.row(box, use) for box, use in measured], width)
