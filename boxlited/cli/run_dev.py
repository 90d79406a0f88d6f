"""`make run`: the daemon in the foreground on a home of this user, and what to type next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from boxlited.config import load_config
from boxlited.daemon import main_guard, run_daemon
from boxlited.errors import StartupError
from boxlited.logs import configure_logging


def developer_paths() -> tuple[Path, Path]:
    """A home and a socket that need no root; a daemon of the system is never in the way."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    home = Path(os.environ.get("BOXLITED_HOME") or state / "boxlited")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    default = Path(runtime) / "boxlited-dev.sock" if runtime else home / "boxlited.sock"
    return home, Path(os.environ.get("BOXLITED_SOCKET") or default)


def main() -> int:
    home, socket = developer_paths()
    try:
        config = load_config(None, os.environ, home=str(home), socket=str(socket), log_format="console")
    except StartupError as error:
        print(f"boxlited: {error.message}", file=sys.stderr)
        return error.exit_code
    configure_logging(config.log_format, config.log_level)
    return main_guard(lambda: run_daemon(config, lambda _addresses: _say_next(config.home, config.socket)))


def _say_next(home: str, socket: str) -> None:
    boxctl = Path(sys.executable).with_name("boxctl")
    shown = os.path.relpath(boxctl) if str(boxctl).startswith(os.getcwd()) else str(boxctl)
    print(
        f"""
boxlited serves {socket} (home {home}). In another terminal:

    export BOXLITED_SOCKET={shlex.quote(socket)}
    {shown} run -d --name web -- sleep 1000
    {shown} ps
    {shown} stop web
    {shown} doctor

Ctrl-C stops the daemon; boxes live on and are found again by the next `make run`.
""",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
