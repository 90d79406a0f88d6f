"""What boxctl's exit code says, and which hint goes with which error. Pure."""

from __future__ import annotations

from boxlited import errors
from boxlited.client.errors import ConnectionFailed, NoDaemon, SocketForbidden

OK = 0
FAILED = 1
USAGE = 2
NO_SUCH_BOX = 3
NO_DAEMON = 4
RUN_DAEMON_ERROR = 125
RUN_NOT_EXECUTABLE = 126
RUN_NOT_FOUND = 127
INTERRUPTED = 130

_HINTS: dict[type[errors.BoxlitedError], str] = {
    errors.NotFound: "`boxctl ps` lists the boxes",
    errors.AlreadyExists: "choose another name, or remove the old box with `boxctl rm`",
    errors.InvalidState: "`boxctl inspect` shows what the box does now",
    errors.Stopped: "start it with `boxctl start`",
    errors.Unsupported: "`boxctl doctor` shows what this host can do",
    errors.Unauthenticated: "set BOXLITED_TOKEN",
    errors.PermissionDenied: "join group boxlited, or run as root",
    errors.ResourceExhausted: "stop or remove other boxes first",
    errors.StorageError: "`boxctl doctor` checks the disk",
    errors.DatabaseError: "`boxctl doctor` checks the disk; the daemon's log says more",
    errors.EngineUnavailable: "`boxctl doctor` shows what this host can do",
    errors.Internal: "the daemon's log says more: `journalctl -u boxlited`",
    errors.Timeout: "`boxctl ps` shows how far it came",
}


_OF_NO_BOX = {  # what else may not be there: how the daemon's message begins -> the hint
    "there is no execution": "`boxctl executions BOX` lists the commands of a box",
    "packing ": "`boxctl exec BOX ls` shows what is in the box",
}
_IN_THE_LOG = (errors.Internal, errors.DatabaseError)


def code_for(error: errors.BoxlitedError) -> int:
    """The exit code of a command that failed with `error`."""
    if isinstance(error, errors.NotFound):
        return FAILED if error.message.startswith(tuple(_OF_NO_BOX)) else NO_SUCH_BOX
    if isinstance(error, NoDaemon | SocketForbidden):
        return NO_DAEMON
    if isinstance(error, errors.InvalidArgument):
        return USAGE
    return FAILED


def explain(error: errors.BoxlitedError) -> tuple[str, str | None]:
    """The message of an error and what to do next."""
    if isinstance(error, ConnectionFailed):
        return error.summary, error.hint
    hint = _HINTS.get(type(error))
    if isinstance(error, errors.PermissionDenied) and "read-only" in error.message:
        hint = "BOXLITED_SOCKET names the socket for monitoring: use the one beside it"
    for beginning, other in _OF_NO_BOX.items():
        if isinstance(error, errors.NotFound) and error.message.startswith(beginning):
            hint = other
    if hint is not None and isinstance(error, _IN_THE_LOG):
        hint = " ".join([hint, *(f"({note})" for note in getattr(error, "__notes__", ()))])
    return error.message, hint
