"""boxctl as a process of its own: with pipes, or on a terminal."""

from __future__ import annotations

import subprocess
import sys

from tests.terminal import Terminal

WEB, DB = "webaaaaaaaaaaaaa", "dbbbbbbbbbbbbbbb"
SECONDS = 60


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "boxlited.cli.boxctl", *arguments]


def boxctl(*arguments: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Exit code, output, complaints; its standard input is `stdin`, or nothing."""
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(program(*arguments), capture_output=True, check=False, timeout=SECONDS, **source)
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def on_terminal(*arguments: str, cols: int = 80, rows: int = 24) -> Terminal:
    return Terminal(program(*arguments), {}, cols, rows)
