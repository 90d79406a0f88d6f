"""boxctl cp: files between this host and a box, as `docker cp` has it."""

from __future__ import annotations

import sys
from typing import Annotated, NamedTuple

import typer

from boxlited.cli.options import session_of
from boxlited.cli.session import Session
from boxlited.errors import InvalidArgument

STREAM = "-"


def register(app: typer.Typer) -> None:
    app.command()(cp)


def cp(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="BOX:PATH, a path, or - for a tar stream.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="BOX:PATH, a path, or - for a tar stream.")],
    *,
    follow_link: Annotated[bool, typer.Option("--follow-link", "-L", help="Copy what a link leads to.")] = False,
) -> None:
    """Copy a file or directory into a running box, or out of it.

    It lands in DST when that is a directory, else it becomes DST. DIR/. is what is in DIR.
    """
    session = session_of(context)
    inside, outside = (_parsed(source), _parsed(target))
    if isinstance(outside, InBox) and isinstance(inside, InBox):
        raise InvalidArgument("cp copies between this host and a box: only one side may be BOX:PATH")
    if isinstance(outside, InBox):
        box_id = session.with_box(outside.box, session.client.get)["box_id"]
        _copy_in(session, source, box_id, outside, follow_link)
    elif isinstance(inside, InBox):
        box_id = session.with_box(inside.box, session.client.get)["box_id"]
        _copy_out(session, box_id, inside.path, target, follow_link)
    else:
        raise InvalidArgument("one of the two must be in a box: BOX:PATH, such as web:/tmp")


class InBox(NamedTuple):
    box: str
    path: str


def _parsed(text: str) -> InBox | str:
    """What begins with / or . is a path of this host whatever it holds, as docker has it."""
    if text.startswith(("/", ".")) or text == STREAM:
        return text
    box, colon, path = text.partition(":")
    if not colon:
        return text
    if not box or not path:
        raise InvalidArgument(f"{text!r}: expected BOX:PATH, such as web:/tmp; a file of that name is ./{text}")
    return InBox(box, path)


def _copy_in(session: Session, source: str, box_id: str, target: InBox, follow_link: bool) -> None:
    if source != STREAM:
        session.client.copy_in(source, box_id, target.path, follow_symlinks=follow_link)
        return
    from boxlited.client.copying import BoxPath, kind_in_box

    if sys.stdin.isatty():
        raise InvalidArgument("- reads a tar stream from standard input, and that is a terminal: pipe one in")
    path = BoxPath.parse(target.path).path
    if path != "/" and kind_in_box(session.client, box_id, path) != "directory":
        raise InvalidArgument(f"{target.box}:{target.path} is no directory: a tar stream is unpacked into one")
    session.client.put_files(box_id, path.rstrip("/") + "/", sys.stdin.buffer)


def _copy_out(session: Session, box_id: str, source: str, target: str, follow_link: bool) -> None:
    if target != STREAM:
        session.client.copy_out(box_id, source, target, follow_symlinks=follow_link)
        return
    if sys.stdout.isatty():
        raise InvalidArgument("- writes a tar stream to standard output, and that is a terminal: redirect it")
    with session.client.get_files(box_id, source, follow_symlinks=follow_link) as stream:
        for chunk in stream:
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
