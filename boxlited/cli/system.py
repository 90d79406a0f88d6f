"""boxctl commands about the daemon and the host: reconcile, version. (doctor is next door.)"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from boxlited import __version__
from boxlited.cli import escape, exits, tables
from boxlited.cli.options import Format, FormatOption, session_of
from boxlited.cli.session import say, terminal_width
from boxlited.cli.tables import Column
from boxlited.client.errors import ConnectionFailed
from boxlited.client.values import ReconcileEntry

_COLUMNS = (
    Column("NAME", least=8),
    Column("STATUS", drop=2),
    Column("IDENTITY", drop=3),
    Column("ACTION", least=8),
    Column("WARNING", drop=4, least=12),
)
_IDLE = frozenset({"", "none", None})


def register(app: typer.Typer) -> None:
    app.command()(reconcile)
    app.command()(version)


def reconcile(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Compare what should run with what does run, now; say what was seen, decided and done."""
    entries = session_of(context).client.reconcile(dry_run=dry_run)
    if format is Format.JSON:
        say(json.dumps(entries, indent=2))
        return
    for row in reconcile_lines(entries, dry_run, terminal_width()):
        say(row)


def reconcile_lines(entries: list[ReconcileEntry], dry_run: bool, width: int | None) -> list[str]:
    rows = [
        (
            entry.get("name") or entry.get("box_id") or "",
            entry.get("status", ""),
            entry.get("identity", ""),
            entry.get("action") or "none",
            entry.get("warning") or "",
        )
        for entry in entries
    ]
    acted = sum(entry.get("action") not in _IDLE for entry in entries)
    verb = "to act on" if dry_run else "acted on"
    boxes = "1 box" if len(entries) == 1 else f"{len(entries)} boxes"
    summary = f"{boxes} looked at, {acted} {verb}"
    lines = tables.render(_COLUMNS, rows, width) if entries else []
    return [*lines, summary if width is None else tables.cut(summary, width)]


def version(context: typer.Context) -> None:
    """Show the versions of boxctl and of the daemon."""
    say(f"boxctl    {__version__}")
    try:
        daemon = session_of(context).client.config().get("version", "unknown")
    except ConnectionFailed as error:
        say(f"boxlited  - ({escape.line(error.summary)})")
        raise typer.Exit(exits.OK) from error
    say(f"boxlited  {escape.line(daemon)}")
