"""One run of boxctl: which daemon, how wide the terminal is, and where words go.

Owns the two ways out: `say` (stdout) and `complain` (stderr, one line and a hint). Whatever goes
through `complain` is made harmless to the terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from boxlited.cli import exits
from boxlited.cli.escape import line
from boxlited.errors import BoxlitedError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from boxlited.client import Client

T = TypeVar("T")


class Session:
    """Built once by the program's callback and handed down by typer's context."""

    def __init__(self, socket: str | None, url: str | None) -> None:
        self.socket = socket
        self._url = url
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self.another_client()
        return self._client

    def another_client(self) -> Client:
        """One of its own for another thread, which closes it."""
        from boxlited.client import Client

        return Client(self.socket, base_url=self._url, token=os.environ.get("BOXLITED_TOKEN"))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def with_box(self, ref: str, action: Callable[[str], T]) -> T:
        """`action(ref)`; when no box is called that, `action` of the one whose id begins so."""
        try:
            return action(ref)
        except NotFound:
            full = self._by_prefix(ref)
            if full is None:
                raise
            return action(full)

    def _by_prefix(self, ref: str) -> str | None:
        """The id that begins with `ref`. None when a box has exactly this id or name, or none fits."""
        boxes = self.client.list()
        if any(ref in (box.get("box_id"), box.get("name")) for box in boxes):
            return None
        fitting = [box["box_id"] for box in boxes if box["box_id"].startswith(ref)]
        if len(fitting) > 1:
            shown = ", ".join(fitting[:4])
            raise InvalidArgument(f"{ref!r} begins the ids of {len(fitting)} boxes: {shown}")
        return fitting[0] if fitting else None

    def each(self, refs: Sequence[str], action: Callable[[str], object], quiet: bool = False) -> int:
        """Do it to every box and say which are done; the exit code on which all failures agree, or 1."""
        codes = set()
        for ref in refs:
            try:
                found = self.with_box(ref, action)
            except BoxlitedError as error:
                complain_of(error)
                codes.add(exits.code_for(error))
                if exits.NO_DAEMON in codes:
                    return exits.NO_DAEMON
            else:
                if not quiet:
                    say(line(ref))
                if isinstance(found, dict) and found.get("warning"):
                    complain(f"warning: box {ref}: {found['warning']}")
        if not codes:
            return exits.OK
        return codes.pop() if len(codes) == 1 else exits.FAILED


def say(words: str) -> None:
    print(words)


def complain(message: str, hint: str | None = None) -> None:
    """One line on stderr, and one that says what to do next."""
    sys.stdout.flush()
    print(f"boxctl: {line(message)}", file=sys.stderr)
    if hint:
        print(f"  hint: {line(hint)}", file=sys.stderr)


def complain_of(error: BoxlitedError) -> None:
    complain(*exits.explain(error))


def terminal_width() -> int | None:
    """Columns of the terminal ($COLUMNS first); None when stdout is a file or a pipe."""
    if not os.environ.get("COLUMNS") and not sys.stdout.isatty():
        return None
    return max(1, shutil.get_terminal_size().columns)
