"""`boxctl run -it`: a box for one command that somebody talks to.

The box is created without a command, stays up by itself, and the command runs in it as with
`exec`: so it has a terminal, and outlasts a restart of the daemon. Its end is the end of the box.
"""

from __future__ import annotations

import os
import shlex

from boxlited.cli import exits, follow, parse
from boxlited.cli.box_options import BoxOptions
from boxlited.cli.commands import refused, start
from boxlited.cli.conversation import Detached, Wiring, converse
from boxlited.cli.session import Session, complain, complain_of
from boxlited.client.values import BoxInfo
from boxlited.errors import BoxlitedError, InvalidArgument, NotFound

COMMAND_LABEL = "boxlited.command"  # what the box is for; `inspect` shows it
SHELL = "/bin/sh"
STOP_SECONDS = 2.0  # nothing of the user's runs any more


def run(session: Session, options: BoxOptions, interactive: bool, tty: bool) -> int:
    """The exit code for boxctl. Leaves no running box, except when the user detaches."""
    body = options.body()
    command = body.pop("cmd", None) or [SHELL]
    body.pop("auto_remove", None)
    body["labels"] = {COMMAND_LABEL: shlex.join(command), **body.get("labels", {})}
    try:
        box = session.client.create(body)
    except BoxlitedError as error:
        complain_of(error)
        return exits.RUN_DAEMON_ERROR
    try:
        code = _converse(session, box, command, options, Wiring(interactive, tty, 0))
    except Detached:
        name = box.get("name") or box["box_id"]
        complain("detached; the box runs on", f"`boxctl attach {name}` returns, `boxctl rm -f {name}` ends it")
        return exits.OK
    except BaseException:
        _end(session, box["box_id"], options.rm)
        raise
    _end(session, box["box_id"], options.rm)
    return code


def _converse(session: Session, box: BoxInfo, command: list[str], options: BoxOptions, wiring: Wiring) -> int:
    box_id = box["box_id"]
    variables = parse.environment(options.env or (), os.environ)
    try:
        session.client.start(box_id)
        execution_id = start(session, box_id, command, variables, options.workdir, options.user, wiring.tty)
    except InvalidArgument as error:
        code = refused(error)
        return exits.RUN_DAEMON_ERROR if code == exits.USAGE else code
    except BoxlitedError as error:
        complain_of(error)
        return exits.RUN_DAEMON_ERROR
    return converse(session, box_id, execution_id, wiring)


def _end(session: Session, box_id: str, remove: bool) -> None:
    try:
        if remove:
            follow.patiently(lambda: session.client.remove(box_id, force=True))
        else:
            follow.patiently(lambda: session.client.stop(box_id, STOP_SECONDS))
    except NotFound:
        pass
    except BoxlitedError as error:
        complain_of(error)
