"""The terminal that boxctl was started on: its size, raw mode, and the keys that detach.

Owns the promise that the terminal is as it was on every way out that a program can take. Only
streams that are terminals are touched.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from typing import NamedTuple

from boxlited.errors import InvalidArgument

DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q, as docker's


class Size(NamedTuple):
    cols: int
    rows: int


def size() -> Size | None:
    """Of the terminal that output goes to, else of the one that input comes from."""
    for stream in (sys.stdout, sys.stdin):
        try:
            found = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError):
            continue
        if found.columns and found.lines:
            return Size(found.columns, found.lines)
    return None


def stdin_is_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def check(interactive: bool, tty_wanted: bool) -> None:
    """As docker: a terminal inside that is typed at needs one outside."""
    if interactive and tty_wanted and not stdin_is_terminal():
        raise InvalidArgument("-t with -i needs a terminal as input, and it is none: leave out -t")


class RawTerminal:
    """Keys go to the command as they are typed; Ctrl-C too. Nothing is done without a terminal."""

    def __init__(self, wanted: bool) -> None:
        self._descriptor = sys.stdin.fileno() if wanted and stdin_is_terminal() else -1
        self._before = termios.tcgetattr(self._descriptor) if self.active else None

    @property
    def active(self) -> bool:
        return self._descriptor >= 0

    def __enter__(self) -> RawTerminal:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self) -> None:
        if self.active:
            with _not_stopped():
                tty.setraw(self._descriptor, termios.TCSANOW)

    def leave(self) -> None:
        if self._before is not None:
            with _not_stopped():
                try:
                    termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)
                except termios.error:
                    pass  # the terminal is gone


class _not_stopped:
    """Who changes the terminal from the background is stopped by SIGTTOU, unless it is blocked."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class DetachKeys:
    """Finds the detach keys in what is typed, however it is cut into pieces."""

    def __init__(self, keys: bytes = DETACH_KEYS) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be sent on, and whether the keys were there. A beginning of them is held back
        until the next key, what follows them is dropped."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False
