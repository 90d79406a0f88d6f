"""boxctl run and create: a box from a command line."""

from __future__ import annotations

from typing import Annotated

import typer

from boxlited.cli import exits, foreground, interactive, terminal
from boxlited.cli.box_options import BoxOptions, with_box_options
from boxlited.cli.commands import InteractiveOption, TtyOption
from boxlited.cli.options import session_of
from boxlited.cli.session import complain_of, say
from boxlited.client.values import BoxInfo
from boxlited.errors import BoxlitedError, InvalidArgument

_COMMAND = {"allow_interspersed_args": False}


def register(app: typer.Typer) -> None:
    app.command(context_settings=_COMMAND)(with_box_options(run))
    app.command(context_settings=_COMMAND)(with_box_options(create))


def run(
    context: typer.Context,
    options: BoxOptions,
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it; print its id.")] = False,
    interactive_: InteractiveOption = False,
    tty: TtyOption = False,
) -> None:
    """Create a box and start it; show what it writes and end as it ends.

    Ctrl-C stops the box, a second one kills it. With -i or -t the command is yours, as in a shell
    (CMD is /bin/sh when there is none): Ctrl-C reaches it, and its end stops the box. The exit code
    is the command's own, or 125 when the daemon refused, 126 when the command cannot be executed,
    127 when it was not found.
    """
    if interactive_ or tty:
        if detach:
            raise InvalidArgument("-d and -i or -t exclude each other: run it with -d, then `boxctl exec -it`")
        terminal.check(interactive_, tty)
        raise typer.Exit(interactive.run(session_of(context), options, interactive_, tty))
    body = options.body()
    if not detach:
        body.pop("auto_remove", None)  # see foreground.py
    session = session_of(context)
    box: BoxInfo = {}
    try:
        box = session.client.create(body)
        if detach:
            session.client.start(box["box_id"])
    except BoxlitedError as error:
        complain_of(error)
        raise typer.Exit(foreground.refused(session, error, box.get("box_id"))) from error
    if detach:
        say(box["box_id"])
        raise typer.Exit(exits.OK)
    raise typer.Exit(foreground.run(session, box["box_id"], remove=options.rm))


def create(context: typer.Context, options: BoxOptions) -> None:
    """Create a box and print its id. `boxctl start` starts it."""
    body = options.body()
    box = session_of(context).client.create(body)
    say(box["box_id"])
