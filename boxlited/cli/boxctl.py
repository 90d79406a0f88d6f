"""The program boxctl: its commands, and the one place where errors become words and exit codes.

Never a traceback for what can go wrong in use. Heavy imports (rich) happen in the commands.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from boxlited import __version__
from boxlited.cli import commands, copy, doctor, exits, lifecycle, look, run, streams, system, top
from boxlited.cli.session import Session, complain, complain_of, say
from boxlited.errors import BoxlitedError

app = typer.Typer(
    name="boxctl",
    help="Run boxes on this host, look at them, and hear why they died.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"boxctl {__version__}")
        raise typer.Exit(exits.OK)


@app.callback()
def connect(
    context: typer.Context,
    socket: Annotated[str | None, typer.Option(envvar="BOXLITED_SOCKET", help="The daemon's unix socket.")] = None,
    url: Annotated[
        str | None, typer.Option(envvar="BOXLITED_URL", help="The daemon's URL; token in BOXLITED_TOKEN.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version of boxctl.")
    ] = False,
) -> None:
    context.obj = Session(socket, url)
    context.call_on_close(context.obj.close)


for _room in (run, commands, copy, lifecycle, look, streams, top, system, doctor):
    _room.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the program. Always ends by SystemExit."""
    try:
        code = _guarded(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _quiet_stdout()
    sys.exit(code)


def _guarded(arguments: list[str] | None) -> int:
    try:
        result = app(arguments, prog_name="boxctl", standalone_mode=False)
    except BoxlitedError as error:
        complain_of(error)
        return exits.code_for(error)
    except (KeyboardInterrupt, typer.Abort):
        return exits.INTERRUPTED
    except BrokenPipeError:
        return _quiet_stdout()
    except Exception as error:
        # typer's usage errors have no public base class: click's, or its own copy of it. Anything
        # else is a bug, and a user gets one line about it and not a traceback.
        return _usage(error) if hasattr(error, "format_message") else _bug(error)
    return result if isinstance(result, int) else exits.OK


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "boxctl"
    words = str(getattr(error, "format_message", error.__str__)())
    if type(error).__name__ == "NoArgsIsHelpError":
        print(words, file=sys.stderr)
        return exits.USAGE
    complain(words, f"`{path} --help` shows what it takes")
    return exits.USAGE


def _bug(error: Exception) -> int:
    if os.environ.get("BOXCTL_DEBUG"):
        raise error
    complain(
        f"a bug in boxctl: {type(error).__name__}: {error}",
        "BOXCTL_DEBUG=1 shows where; please report it",
    )
    return exits.FAILED


def _quiet_stdout() -> int:
    """The reader of our output is gone: no more words, and no complaint of Python's at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exits.FAILED


if __name__ == "__main__":
    main()
