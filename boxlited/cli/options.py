"""Options that several commands share, and the completion of box names. No behaviour else."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, cast

import typer

from boxlited.cli.session import Session
from boxlited.errors import BoxlitedError


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


class OnlyJson(StrEnum):
    JSON = "json"


def complete_box(incomplete: str) -> list[str]:
    """Names and ids of boxes that begin so. Silent when no daemon answers: it runs in a prompt."""
    session = Session(None, None)
    try:
        boxes = session.client.list()
    except BoxlitedError:
        return []
    finally:
        session.close()
    names = [str(box.get("name")) for box in boxes]
    ids = [str(box.get("box_id")) for box in boxes] if incomplete else []
    return [word for word in names + ids if word.startswith(incomplete)]


def complete_execution(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of the running commands of the box that was named before."""
    session = Session(None, None)
    try:
        found = session.with_box(str(context.params.get("box")), session.client.executions)
    except BoxlitedError:
        return []
    finally:
        session.close()
    ids = [execution["execution_id"] for execution in found if execution.get("status") == "running"]
    return [word for word in ids if word.startswith(incomplete)]


def session_of(context: typer.Context) -> Session:
    return cast(Session, context.find_root().obj)


BoxArgument = Annotated[
    str, typer.Argument(metavar="BOX", help="Name or id (or its beginning).", autocompletion=complete_box)
]
BoxesArgument = Annotated[
    list[str],
    typer.Argument(metavar="BOX...", help="Names or ids (or their beginnings).", autocompletion=complete_box),
]
SomeBoxesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[BOX...]", help="Names or ids; all of them otherwise.", autocompletion=complete_box),
]
JsonOption = Annotated[OnlyJson, typer.Option("--format", hidden=True)]  # for scripts that say it everywhere
FormatOption = Annotated[Format, typer.Option("--format", help="How to show it.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--time", "-t", min=0, max=3600, help="Seconds to wait before force is used; as configured otherwise."
    ),
]
