"""boxctl commands that last as long as there is something to say: logs, events, stats."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from boxlited.cli import follow as follow_log
from boxlited.cli import parse
from boxlited.cli.options import BoxArgument, session_of


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    context: typer.Context,
    box: BoxArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the box stops.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last N lines.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what is newer: 10m, a date, or Unix seconds.")
    ] = None,
) -> None:
    """Show what a box has written."""
    session = session_of(context)
    moment = None if since is None else parse.since(since, time.time())
    follow_log.show_log(session, box, follow_log.Wanted(follow=follow, tail=tail, since=moment))
