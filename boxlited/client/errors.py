"""What can go wrong between a client and the daemon, and how a reply becomes an exception.

Errors that the daemon answered with are the classes of `boxlited.errors`, chosen by code. The
ones here say that no answer came. Each carries `hint`: what to do next.
"""

from __future__ import annotations

from typing import Any

from boxlited.errors import BY_CODE, BoxlitedError, Internal


class ConnectionFailed(BoxlitedError):
    """No usable answer came back. `summary` says what happened, `hint` what to do."""

    code = "connection_failed"
    status = 503

    def __init__(self, summary: str, hint: str) -> None:
        super().__init__(f"{summary}: {hint}")
        self.summary = summary
        self.hint = hint


class NoDaemon(ConnectionFailed):
    """Nobody listens: the request was never sent."""

    code = "no_daemon"


class SocketForbidden(ConnectionFailed):
    """The socket is there and this user may not use it."""

    code = "socket_forbidden"


class ConnectionLost(ConnectionFailed):
    """The connection ended after the request was sent: whether it took effect is not known."""

    code = "connection_lost"


def no_daemon(where: str) -> NoDaemon:
    return NoDaemon(
        f"no daemon answers on {where}",
        "start it with `make run` or `systemctl start boxlited`, or set BOXLITED_SOCKET",
    )


def socket_forbidden(where: str) -> SocketForbidden:
    return SocketForbidden(
        f"permission denied on {where}",
        "join group boxlited (`sudo usermod -aG boxlited $USER`, then log in again), or run as root",
    )


def connection_lost(operation: str, cause: str) -> ConnectionLost:
    return ConnectionLost(
        f"the daemon did not finish its answer to {operation} ({cause})",
        "whether it took effect is not known; look with `boxctl ps` before trying again",
    )


def from_reply(status: int, body: object, operation: str) -> BoxlitedError:
    """The exception for a reply that is not a success. Never fails on a strange body.

    The id of the request is its note (PEP 678), so that a reader can find the call in the log.
    """
    error: Any = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return Internal(f"{operation}: the daemon answered HTTP {status} without an explanation")
    message = error.get("message")
    if not isinstance(message, str) or not message:
        message = f"{operation}: the daemon answered HTTP {status}"
    result = BY_CODE.get(str(error.get("code")), Internal)(message)
    if isinstance(error.get("request_id"), str):
        result.add_note(f"request {error['request_id'][:128]}")
    return result
