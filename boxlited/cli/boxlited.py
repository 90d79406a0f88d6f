"""The `boxlited` program: serve, check-config, drain, version.

Parses the command line and nothing more; `daemon.py` composes. Plain argparse: the daemon's
start must not pay for a richer one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from boxlited import __version__
from boxlited.errors import StartupError
from boxlited.leanstart import lean_imports
from boxlited.stdio import open_standard_streams, say_error

EX_USAGE = 64
MAX_GRACE_SECONDS = 3600  # the daemon takes no more


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exits with sysexits codes: 64 usage, 73 home taken, 78 config."""
    open_standard_streams()
    options = _parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
    except StartupError as error:
        say_error(f"boxlited: {error.message}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of our output is gone: no complaint of Python's at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    raise SystemExit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        say_error(f"boxlited: {message}\n`{self.prog} --help` shows what it takes")
        raise SystemExit(EX_USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="boxlited", description="Host supervisor for boxes.")
    parser.add_argument("--version", action="version", version=f"boxlited {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the daemon in the foreground")
    serve.set_defaults(run=_serve)
    serve.add_argument("--home", metavar="DIR", help="where everything is kept")
    serve.add_argument("--socket", metavar="PATH", help="unix socket to serve on")
    serve.add_argument("--config", metavar="FILE", help="TOML file")
    serve.add_argument("--listen", metavar="HOST:PORT", help="also serve on TCP; needs --token-file")
    serve.add_argument("--token-file", metavar="FILE", help="bearer token for --listen; mode 0600")
    serve.add_argument("--log-format", choices=["json", "console"])
    serve.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    check = commands.add_parser("check-config", help="say everything that is wrong with a config file")
    check.set_defaults(run=_check_config)
    check.add_argument("file", metavar="FILE")
    drain = commands.add_parser("drain", help="stop all boxes of a running daemon")
    drain.set_defaults(run=_drain)
    drain.add_argument("--socket", metavar="PATH")
    drain.add_argument("--timeout", type=_grace, default=30.0, metavar="SECONDS", help="grace for each box")
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _grace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_GRACE_SECONDS:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 0 to {MAX_GRACE_SECONDS} seconds")
    return seconds


def _serve(options: argparse.Namespace) -> int:
    with lean_imports():
        from boxlited.config import load_config
        from boxlited.daemon import main_guard, run_daemon
        from boxlited.logs import configure_logging

    config = load_config(
        Path(options.config) if options.config else None,
        os.environ,
        home=options.home,
        socket=options.socket,
        listen=options.listen,
        token_file=options.token_file,
        log_format=options.log_format,
        log_level=options.log_level,
    )
    configure_logging(config.log_format, config.log_level)
    return main_guard(lambda: run_daemon(config))


def _check_config(options: argparse.Namespace) -> int:
    from boxlited.config import check_config

    problems = check_config(Path(options.file))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{options.file}: ok")
    return 78 if problems else 0


def _drain(options: argparse.Namespace) -> int:
    from boxlited.cli.drain import drain

    return drain(options.socket, options.timeout)


def _version(_options: argparse.Namespace) -> int:
    print(f"boxlited {__version__}")
    return 0


if __name__ == "__main__":
    main()
