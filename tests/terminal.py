"""A program on a terminal of the test's own: typed at, looked at, resized."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from typing import Any

SECONDS = 30.0
_LAUNCH = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)  # fmt: skip


class Terminal:
    """`argv` runs as the leader of a session whose terminal this is. Close it."""

    def __init__(self, argv: list[str], env: Mapping[str, str], cols: int = 80, rows: int = 24) -> None:
        self._outside, self._inside = pty.openpty()
        self.resize(cols, rows)
        self.modes_before = self.modes()
        self.shown = b""
        self._searched = 0
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _LAUNCH, *argv],
            stdin=self._inside, stdout=self._inside, stderr=self._inside, start_new_session=True,
            env={**os.environ, "TERM": "xterm", **env},
        )  # fmt: skip

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._outside)
        os.close(self._inside)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._inside)

    def is_raw(self) -> bool:
        return not self.modes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_as_before(self) -> bool:
        return self.modes() == self.modes_before

    def resize(self, cols: int, rows: int) -> None:
        """The kernel tells the program by SIGWINCH."""
        fcntl.ioctl(self._outside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._outside, keys)

    def expect(self, wanted: bytes) -> None:
        """Waits until `wanted` is shown, behind what was expected before."""
        end = time.monotonic() + SECONDS
        while (found := self.shown.find(wanted, self._searched)) < 0:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{wanted!r} was not shown, but {self.shown[self._searched :]!r}")
        self._searched = found + len(wanted)

    def wait(self) -> int:
        """Shows everything until the program ends; its exit code."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end; shown: {self.shown!r}"
            self._read(0.02)
        while self._read(0):
            pass
        return self.process.returncode

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def until(self, look: Any, what: str) -> None:
        end = time.monotonic() + SECONDS
        while not look():
            assert time.monotonic() < end, f"timed out: {what}; shown: {self.shown!r}"
            self._read(0.01)

    def is_stopped(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._outside], [], [], max(0.0, seconds))
        if not ready:
            return False
        self.shown += os.read(self._outside, 65536)
        return True
