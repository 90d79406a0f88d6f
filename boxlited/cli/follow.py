"""Streams that outlast the daemon: a log or a wait goes on after the daemon was restarted.

Boxes survive a restart of the daemon, so watching one should too. Owns the bound on that patience.
Only calls that change nothing are repeated.
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

PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.2
WHOLE_LOG_BYTES = 10 * 1024 * 1024  # beyond this the daemon may have rotated the log

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

    A daemon that was never there is an error at once, unless `lost` says that it was.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return action()
        except ConnectionLost:
            lost = True
            if time.monotonic() >= end:
                raise
        except NoDaemon:
            if not lost or time.monotonic() >= end:
                raise
        time.sleep(PAUSE_SECONDS)


def log_chunks(session: Session, ref: str, wanted: Wanted) -> Iterator[bytes]:
    """The log, and when a followed one breaks off, the rest of it once the daemon is back."""
    seen, skip = 0, 0
    stream = _open(session, ref, wanted)
    while True:
        try:
            with stream:
                for chunk in stream:
                    fresh = chunk[skip:]
                    skip = max(0, skip - len(chunk))
                    seen += len(fresh)
                    if fresh:
                        yield fresh
            return
        except ConnectionLost:
            if not wanted.follow:
                raise
        whole = wanted.tail is None and wanted.since is None and seen < WHOLE_LOG_BYTES
        if whole:
            skip = seen
        else:
            wanted = Wanted(follow=True, tail=0)
            complain("the daemon went away: lines written until it is back may be missing here")
        stream = patiently(partial(_open, session, ref, wanted), lost=True)


def _open(session: Session, ref: str, wanted: Wanted) -> ByteStream:
    return session.with_box(
        ref,
        lambda box: session.client.logs(box, follow=wanted.follow, tail=wanted.tail, since=wanted.since),
    )


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
