"""boxctl commands that change boxes: start, stop, restart, kill, rm, reset-failed.

Each takes several boxes; each box is done or complained of by itself.
"""

from __future__ import annotations

from typing import Annotated

import typer

from boxlited.cli.options import BoxesArgument, TimeoutOption, session_of
from boxlited.cli.parse import signal_number
from boxlited.cli.session import Session


def register(app: typer.Typer) -> None:
    app.command()(start)
    app.command()(stop)
    app.command()(restart)
    app.command()(kill)
    app.command()(rm)
    app.command("reset-failed")(reset_failed)


def start(context: typer.Context, boxes: BoxesArgument) -> None:
    """Start boxes. One that runs already stays as it is."""
    session = session_of(context)
    raise typer.Exit(session.each(boxes, session.client.start))


def stop(context: typer.Context, boxes: BoxesArgument, time: TimeoutOption = None) -> None:
    """Stop boxes: gently first, by force after --time seconds."""
    session = session_of(context)
    grace = _grace(session, time)
    raise typer.Exit(session.each(boxes, lambda ref: session.client.stop(ref, grace)))


def restart(context: typer.Context, boxes: BoxesArgument, time: TimeoutOption = None) -> None:
    """Stop boxes and start them again."""
    session = session_of(context)
    grace = _grace(session, time)
    raise typer.Exit(session.each(boxes, lambda ref: session.client.restart(ref, grace)))


def _grace(session: Session, time: float | None) -> float:
    """What was asked for, or what the daemon is configured for: the client must know how long to wait."""
    return float(session.client.config()["defaults"]["stop_timeout_seconds"]) if time is None else time


def kill(
    context: typer.Context,
    boxes: BoxesArgument,
    signal: Annotated[str, typer.Option("--signal", "-s", help="Name or number.")] = "KILL",
) -> None:
    """Send a signal to what runs in the boxes."""
    number = signal_number(signal)
    session = session_of(context)
    raise typer.Exit(session.each(boxes, lambda ref: session.client.kill(ref, number)))


def rm(
    context: typer.Context,
    boxes: BoxesArgument,
    force: Annotated[bool, typer.Option("--force", "-f", help="Kill it first when it runs.")] = False,
) -> None:
    """Remove boxes, with their logs and files."""
    session = session_of(context)
    raise typer.Exit(session.each(boxes, lambda ref: session.client.remove(ref, force=force)))


def reset_failed(context: typer.Context, boxes: BoxesArgument) -> None:
    """Forget that boxes failed, and let their restart policy begin anew."""
    session = session_of(context)
    raise typer.Exit(session.each(boxes, session.client.reset_failed))
