"""Streams that outlast the daemon: a log or a wait goes on after the daemon was restarted.

Boxes survive a restart of the daemon, so watching one should too. Owns the bound on that patience.
Only calls that change nothing more when they are repeated may be given here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from boxlited.cli.escape import StreamFilter
from boxlited.cli.session import Session, complain
from boxlited.client.errors import ConnectionLost, NoDaemon
from boxlited.client.transport import ByteStream
from boxlited.client.values import BoxInfo
from boxlited.errors import EngineUnavailable, NotFound

PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.2
WHOLE_LOG_BYTES = 10 * 1024 * 1024  # beyond this the daemon may have rotated the log

RUNS = frozenset({"running", "stopping", "paused", "unknown"})
RESET = "\x1b[0m"  # a box's colours end with its log

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """Which part of a log."""

    follow: bool = False
    tail: int | None = None
    since: float | None = None


def patiently(action: Callable[[], T], lost: bool = False) -> T:
    """`action()`; once a connection is lost, again until the daemon is back, within bounds.

    A daemon that was never there is an error at once, unless `lost` says that it was. One that
    stops or has not finished its recovery says so (EngineUnavailable): that counts as lost.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return action()
        except (ConnectionLost, EngineUnavailable):
            lost = True
            if time.monotonic() >= end:
                raise
        except NoDaemon:
            if not lost or time.monotonic() >= end:
                raise
        time.sleep(PAUSE_SECONDS)


def log_chunks(session: Session, ref: str, wanted: Wanted) -> Iterator[bytes]:
    """The log, and when a followed one breaks off, the rest of it once the daemon is back."""
    box = session.with_box(ref, session.client.get)
    box_id, seen, skip, lost, over = box["box_id"], 0, 0, False, False
    while True:
        try:
            with patiently(partial(_open, session, box_id, wanted), lost) as stream:
                for chunk in stream:
                    fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                    seen += len(fresh)
                    yield fresh
            if not wanted.follow or over:
                return
            # A daemon that stops ends its streams in order, and the box may have ended since: once more.
            over = not _still_runs(session, box)
            time.sleep(0.0 if over else PAUSE_SECONDS)
        except NotFound:
            if over:  # removed by its own end
                return
            raise
        except ConnectionLost:
            if not wanted.follow:
                raise
        lost = True
        if wanted.tail is None and wanted.since is None and seen < WHOLE_LOG_BYTES:
            skip = seen
        elif over:
            return
        else:
            wanted = Wanted(follow=True, tail=0)
            complain("the daemon went away: lines written until it is back may be missing here")


def _open(session: Session, box_id: str, wanted: Wanted) -> ByteStream:
    return session.client.logs(box_id, follow=wanted.follow, tail=wanted.tail, since=wanted.since)


def _still_runs(session: Session, box: BoxInfo) -> bool:
    """Whether the same run of the box goes on; then the end of its log was not its own."""
    try:
        now = patiently(lambda: session.client.get(box["box_id"]), lost=True)
    except NotFound:
        return False
    return now.get("status") in RUNS and now.get("run_id") == box.get("run_id")


def show_log(session: Session, ref: str, wanted: Wanted) -> None:
    """A box's bytes to stdout: as they are to a file or pipe, made harmless to a terminal."""
    chunks = log_chunks(session, ref, wanted)
    if sys.stdout.isatty():
        _show_harmless(chunks)
        return
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _show_harmless(chunks: Iterable[bytes]) -> None:
    harmless = StreamFilter()
    for chunk in chunks:
        sys.stdout.write(harmless.feed(chunk))
        sys.stdout.flush()
    sys.stdout.write(harmless.feed(b"", final=True) + RESET)
    sys.stdout.flush()
