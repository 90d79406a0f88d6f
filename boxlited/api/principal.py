"""Who is at the other end of a connection, and whether it may talk to us.

Owns: SO_PEERCRED and the rule for unix sockets. The pid of a peer is decoration for the log: it
can be reused or lie in another pid namespace. Nothing is decided by it.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from typing import Protocol

_PEERCRED = struct.Struct("=iII")
_SO_PEERGROUPS = 59
_MAX_OPTION_BYTES = 1024  # the most that getsockopt of Python takes: 256 groups


class OptionSocket(Protocol):
    """The part of a socket that is needed here: stdlib and trio sockets both have it."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Principal:
    """`uid` and `pid` are None for a TCP peer, which is known by its token only."""

    kind: str  # "unix_user" | "token"
    read_only: bool
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    groups: frozenset[int] = field(default=frozenset())

    @property
    def subject(self) -> str:
        return f"uid:{self.uid}" if self.uid is not None else "token"


@dataclass(frozen=True, slots=True)
class SocketRights:
    """Who may use a unix socket, read from the mode of its file."""

    uid: int
    gid: int | None
    everyone: bool = False

    @classmethod
    def of(cls, status: os.stat_result) -> SocketRights:
        group = status.st_gid if status.st_mode & stat.S_IWGRP else None
        return cls(status.st_uid, group, bool(status.st_mode & stat.S_IWOTH))

    def admit(self, peer: Principal) -> bool:
        """Root, the owner, the group of the file, or all when its mode says so.

        The kernel checked the mode when the peer connected; this holds also for a socket that
        was handed on, and for a file whose group was changed since.
        """
        if self.everyone or peer.uid in (0, self.uid):
            return True
        return self.gid is not None and (peer.gid == self.gid or self.gid in peer.groups)


def unix_principal(sock: OptionSocket, read_only: bool) -> Principal:
    """Credentials that the kernel took when the peer connected. Raises OSError."""
    pid, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return Principal("unix_user", read_only, uid=uid, gid=gid, pid=pid, groups=_groups(sock))


def token_principal(read_only: bool = False) -> Principal:
    return Principal("token", read_only)


def _groups(sock: OptionSocket) -> frozenset[int]:
    """The supplementary groups; none when there are more than fit (the primary one still counts)."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
    except OSError:
        return frozenset()
    return frozenset(struct.unpack(f"={len(raw) // 4}I", raw))
