"""boxctl commands about commands in boxes: exec, attach, executions."""

from __future__ import annotations

import json
import os
import time
from typing import Annotated, NoReturn

import typer

from boxlited.cli import exits, humanize, tables, terminal
from boxlited.cli.conversation import Detached, Wiring, converse
from boxlited.cli.options import BoxArgument, Format, FormatOption, complete_execution, session_of
from boxlited.cli.parse import environment
from boxlited.cli.session import Session, complain, complain_of, say, terminal_width
from boxlited.cli.tables import Column
from boxlited.client.errors import ConnectionLost
from boxlited.client.values import ExecutionInfo, ExecutionInfos
from boxlited.errors import InvalidArgument, InvalidState

NOT_EXECUTABLE = "cannot be executed"
_REASONS = (
    ("no such file", exits.RUN_NOT_FOUND),
    ("not found", exits.RUN_NOT_FOUND),
    ("permission denied", exits.RUN_NOT_EXECUTABLE),
    ("exec format error", exits.RUN_NOT_EXECUTABLE),
    ("is a directory", exits.RUN_NOT_EXECUTABLE),
)
_COLUMNS = (
    Column("ID", least=8),
    Column("COMMAND", least=10),
    Column("STATUS"),
    Column("EXIT", drop=2, right=True),
    Column("STARTED", drop=3),
    Column("TTY", drop=5),
    Column("ATTACHED", drop=4),
)

InteractiveOption = Annotated[bool, typer.Option("--interactive", "-i", help="Send it what is typed or piped in.")]
TtyOption = Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")]


def register(app: typer.Typer) -> None:
    app.command("exec", context_settings={"allow_interspersed_args": False})(execute)
    app.command()(attach)
    app.command()(executions)


def execute(
    context: typer.Context,
    box: BoxArgument,
    command: Annotated[list[str], typer.Argument(metavar="CMD [ARGS]", help="What to run.")],
    *,
    interactive: InteractiveOption = False,
    tty: TtyOption = False,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K[=V]", help="Environment variable.")] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", metavar="DIR", help="Where it starts.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="USER", help="Who it runs as.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it; print its id.")] = False,
) -> None:
    """Run a command in a box, which is started if need be.

    The exit code is the command's own, or 126 when it cannot be executed, 127 when it was not
    found. Ctrl-C reaches the command; with -it, ctrl-p ctrl-q leaves it running.
    """
    session = session_of(context)
    if not detach:
        terminal.check(interactive, tty)
    box_id = session.with_box(box, session.client.get)["box_id"]
    variables = environment(env or (), os.environ)
    try:
        execution_id = start(session, box_id, _without_dashes(command), variables, workdir, user, tty)
    except InvalidArgument as error:
        raise typer.Exit(refused(error)) from error
    if detach:
        say(execution_id)
        raise typer.Exit(exits.OK)
    raise typer.Exit(converse_or_detach(session, box_id, execution_id, Wiring(interactive, tty, 0), box))


def _without_dashes(command: list[str]) -> list[str]:
    """`boxctl exec BOX -- CMD`, as kubectl has it, is `boxctl exec BOX CMD`."""
    return command[1:] if command[0] == "--" and len(command) > 1 else command


def start(
    session: Session, box_id: str, command: list[str], variables: dict[str, str], workdir: str | None,
    user: str | None, tty: bool,
) -> str:  # fmt: skip
    """Its execution id. A command on a terminal is told of which kind and how large ours is."""
    now = terminal.size() if tty else None
    if tty:
        variables = {"TERM": os.environ.get("TERM", "xterm"), **variables}
    started = session.client.exec(
        box_id, *command, env=variables, working_dir=workdir, user=user, tty=tty,
        cols=now.cols if now else None, rows=now.rows if now else None,
    )  # fmt: skip
    return started["execution_id"]


def refused(error: InvalidArgument) -> int:
    """Says it; 126 or 127 when a command cannot be executed, as a shell has it; else: wrong use."""
    words = error.message.lower()
    if NOT_EXECUTABLE not in words:
        complain_of(error)
        return exits.USAGE
    complain(error.message, "a box has files of its own: is the program among them, and executable?")
    reason = words.partition(NOT_EXECUTABLE)[2]
    return next((code for said, code in _REASONS if said in reason), exits.RUN_NOT_EXECUTABLE)


def converse_or_detach(session: Session, box_id: str, execution_id: str, wiring: Wiring, box: str) -> int:
    try:
        return converse(session, box_id, execution_id, wiring)
    except Detached:
        complain("detached; the command goes on", f"`boxctl attach {box} {execution_id}` returns to it")
        return exits.OK
    except ConnectionLost as error:
        complain(f"{error.summary}; the command goes on", f"`boxctl attach {box} {execution_id}` returns to it")
        return exits.FAILED
    except InvalidState as error:
        complain(error.message, f"`boxctl executions {box}` shows what runs, and what is attached to")
        return exits.FAILED


def attach(
    context: typer.Context,
    box: BoxArgument,
    execution: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXECUTION]", help="Its id; not needed when only one runs.", autocompletion=complete_execution
        ),
    ] = None,
    *,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Only watch; send it nothing.")] = False,
) -> None:
    """Attach to a command that runs in a box, and end as it ends.

    Shows what nobody was shown yet. On a terminal, ctrl-p ctrl-q leaves it running.
    """
    session = session_of(context)
    box_id = session.with_box(box, session.client.get)["box_id"]
    found = _chosen(session, box, box_id, execution)
    tty = bool(found.get("tty"))
    wiring = Wiring(interactive=not no_stdin and (not tty or terminal.stdin_is_terminal()), tty=tty)
    now = terminal.size()
    if tty and now is not None and found.get("status") == "running":
        session.client.resize_execution(box_id, found["execution_id"], now.cols, now.rows)
    raise typer.Exit(converse_or_detach(session, box_id, found["execution_id"], wiring, box))


def _chosen(session: Session, box: str, box_id: str, execution: str | None) -> ExecutionInfo:
    """The one that was named, or the only one that runs."""
    every = session.client.executions(box_id)
    if execution is not None:
        fitting = [found for found in every if found["execution_id"].startswith(execution)]
        exact = [found for found in fitting if found["execution_id"] == execution]
        if exact or len(fitting) == 1:
            return (exact or fitting)[0]
        _refuse(every, f"no execution of box {box} is {execution!r}", "name one of these")
    running = [found for found in every if found.get("status") == "running"]
    if len(running) == 1:
        return running[0]
    if not running:
        raise InvalidState(f"no command runs in box {box}; start one with `boxctl exec`")
    _refuse(running, f"{len(running)} commands run in box {box}", f"name one: `boxctl attach {box} ID`")


def _refuse(executions: ExecutionInfos, message: str, hint: str) -> NoReturn:
    complain(message, hint)
    for row in table_of(executions, time.time(), terminal_width()) if executions else ():
        typer.echo(row, err=True)
    raise typer.Exit(exits.USAGE)


def executions(
    context: typer.Context,
    box: BoxArgument,
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the commands that were started in a box."""
    session = session_of(context)
    found = session.with_box(box, session.client.executions)
    if format is Format.JSON:
        say(json.dumps(found, indent=2))
    elif quiet:
        for execution in found:
            say(execution["execution_id"])
    else:
        for row in table_of(found, time.time(), terminal_width()):
            say(row)


def table_of(executions: ExecutionInfos, now: float, width: int | None) -> list[str]:
    """The lines of `executions`, none wider than `width` cells."""
    rows = [
        (
            execution.get("execution_id", ""),
            execution.get("command", ""),
            execution.get("status", ""),
            "" if execution.get("exit_code") is None else execution.get("exit_code"),
            _ago(execution.get("started_at"), now),
            "yes" if execution.get("tty") else "",
            "yes" if execution.get("attached") else "",
        )
        for execution in executions
    ]
    return tables.render(_COLUMNS, rows, width)


def _ago(started: object, now: float) -> str:
    at = humanize.timestamp(started)
    return "" if at is None else f"{humanize.duration(now - at)} ago"
