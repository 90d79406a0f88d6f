"""`boxctl run` in the foreground: the box's output is ours, so are its end and its Ctrl-C.

The box does not depend on boxctl: when boxctl is killed, the box goes on. A foreground `--rm` is
done here and not by the daemon (`auto_remove`), because the daemon would remove a box that ends
at once, with its output, before we have read it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from boxlited.cli import exits, follow, humanize
from boxlited.cli.commands import NOT_EXECUTABLE
from boxlited.cli.endings import exit_code_of
from boxlited.cli.session import Session, complain, complain_of
from boxlited.client.values import BoxInfo
from boxlited.errors import BoxlitedError, NotFound

STOP_SECONDS = 30.0
_KINDS = {"not_found": exits.RUN_NOT_FOUND, "not_executable": exits.RUN_NOT_EXECUTABLE}
_WORDS = (
    ("no such file", exits.RUN_NOT_FOUND),
    ("not found", exits.RUN_NOT_FOUND),
    ("permission denied", exits.RUN_NOT_EXECUTABLE),
    ("exec format error", exits.RUN_NOT_EXECUTABLE),
)


def run(session: Session, box_id: str, *, remove: bool) -> int:
    """Start the box, show its output, and return the exit code for boxctl."""
    try:
        with _interrupts(session, box_id):
            return _start_and_follow(session, box_id, goes=remove)
    finally:
        if remove:
            _remove(session, box_id)


def _start_and_follow(session: Session, box_id: str, *, goes: bool) -> int:
    try:
        session.client.start(box_id)
    except BoxlitedError as error:
        complain_of(error)
        return refused(session, error, box_id)
    follow.show_log(session, box_id, follow.Wanted(follow=True))
    box = follow.patiently(lambda: session.client.wait(box_id))
    if box.get("status") == "failed":
        _say_failed(box, goes=goes)
        return _KINDS.get(str(box.get("error_kind")), exit_code_of(box, unknown=exits.RUN_DAEMON_ERROR))
    return exit_code_of(box, unknown=exits.RUN_DAEMON_ERROR)


def refused(session: Session, error: BoxlitedError, box_id: str | None) -> int:
    """The exit code when a box was not created or did not start."""
    if exits.code_for(error) == exits.USAGE and box_id is None:
        return exits.RUN_DAEMON_ERROR
    kind, words = "", str(error)
    if box_id is not None:
        try:
            box = session.client.get(box_id)
        except BoxlitedError:
            return exits.RUN_DAEMON_ERROR
        kind, words = str(box.get("error_kind")), f"{words} {box.get('failure_reason')}"
    why = words.lower().rpartition(NOT_EXECUTABLE)[2]  # behind the command, whose name says nothing
    said = (code for word, code in _WORDS if box_id is not None and word in why)
    return next(said, _KINDS.get(kind, exits.RUN_DAEMON_ERROR))


def _say_failed(box: BoxInfo, *, goes: bool) -> None:
    name = str(box.get("name"))
    hint = "without --rm the box stays, and `boxctl crash` says more" if goes else f"`boxctl crash {name}` says more"
    complain(f"box {name} failed: {humanize.reason(box)}", hint)


@contextmanager
def _interrupts(session: Session, box_id: str) -> Iterator[None]:
    """SIGINT and SIGTERM stop the box and, when repeated, kill it; boxctl itself goes on until
    the box has ended, or a third one says that nobody wants to wait for that. The main thread may
    be in a read, so a thread with its own client asks."""
    count = 0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        threading.Thread(target=_end, args=(session, box_id, count == 2), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(session: Session, box_id: str, kill: bool) -> None:
    print(
        "boxctl: killing the box" if kill else "boxctl: stopping the box; Ctrl-C again kills it",
        file=sys.stderr,
    )
    try:
        with session.another_client() as client:
            if kill:
                client.kill(box_id, signal.SIGKILL)
            else:
                client.stop(box_id, STOP_SECONDS)
    except BoxlitedError as error:
        complain_of(error)


def _remove(session: Session, box_id: str) -> None:
    try:
        follow.patiently(lambda: session.client.remove(box_id, force=True))
    except NotFound:
        pass
    except BoxlitedError as error:
        complain_of(error)
