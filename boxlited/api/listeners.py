"""The sockets that the API listens on: made here, or inherited from the service manager.

Owns their files, modes and groups. A unix socket is bound under a temporary name and renamed
into place, so a client finds the old one or the new one and never none. Raises StartupError.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from boxlited.api.principal import SocketRights
from boxlited.errors import ConfigError, StartupError

GROUP = "boxlited"
READ_ONLY_NAME = "boxlited-ro.sock"
READ_ONLY_FD_NAME = "api-ro"  # as the socket unit has it
BACKLOG = 512

_FIRST_INHERITED_FD = 3
_MAX_UNIX_PATH = 107
_EX_CANTCREAT = 73

log = structlog.get_logger("boxlited.api")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and who may use it: a TCP one asks for a token, a unix one has rights."""

    sock: socket.socket
    address: str
    read_only: bool = False
    rights: SocketRights | None = None
    token: bytes | None = None
    path: Path | None = None  # ours to unlink
    inode: int | None = None

    def close(self) -> None:
        """Close, and remove the file when it is still this socket's."""
        self.sock.close()
        if self.path is None:
            return
        try:
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()
        except OSError as error:
            if error.errno != errno.ENOENT:
                log.warning("socket_left_behind", path=str(self.path), error=str(error))


def read_only_path(path: Path) -> Path:
    """Where the monitoring socket lies: beside the control socket. Raises ConfigError when that is its own path."""
    if path.name == READ_ONLY_NAME:
        raise ConfigError(
            f"socket = {str(path)!r}: this name is taken by the read-only socket beside it: choose another"
        )
    return path.with_name(READ_ONLY_NAME)


def listen_unix(path: Path, *, read_only: bool = False, group: str = GROUP) -> Listener:
    """Mode 0660, group `group` when there is such a group and we may give the file to it."""
    _refuse_too_long(path)
    temporary = path.with_name(f".{os.getpid()}{'r' if read_only else 'w'}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_directory(path.parent)
        _refuse_occupied(path)
        temporary.unlink(missing_ok=True)
        sock.bind(os.fspath(temporary))
        _give_to_group(temporary, group)
        temporary.chmod(0o660)
        sock.listen(BACKLOG)  # only now can anyone connect
        status = temporary.lstat()
        temporary.rename(path)
    except OSError as error:
        sock.close()
        temporary.unlink(missing_ok=True)
        raise StartupError(f"cannot listen on {path}: {error.strerror or error}", _EX_CANTCREAT) from error
    except StartupError:
        sock.close()
        raise
    rights = SocketRights.of(status)
    return Listener(sock, f"unix:{path}", read_only, rights, path=path, inode=status.st_ino)


def check_listeners(paths: Iterable[Path], listen: str | None, token_file: Path | None) -> None:
    """What would keep the daemon from listening and can be seen before it touches a box.

    Creates nothing but the directory of the sockets. Raises StartupError, as the functions that listen do.
    """
    for path in paths:
        _refuse_too_long(path)
        try:
            _make_directory(path.parent)
            _refuse_occupied(path)
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
        except OSError as error:
            raise StartupError(f"cannot listen on {path}: {error.strerror}", _EX_CANTCREAT) from error
    if listen is not None and token_file is not None:
        _host_and_port(listen)
        read_token(token_file)


def _make_directory(path: Path) -> None:
    """Whoever is in the group must get through to the socket, whatever the umask says."""
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        if path.is_dir():
            return
        raise
    except FileNotFoundError:
        if path.parent == path:
            raise
        _make_directory(path.parent)
        path.mkdir(mode=0o755)
    path.chmod(0o755)


def _refuse_too_long(path: Path) -> None:
    raw = os.fsencode(path)
    if len(raw) > _MAX_UNIX_PATH or b"\0" in raw:
        raise ConfigError(f"socket path {str(path)!r} is longer than {_MAX_UNIX_PATH} bytes or holds a NUL")


def _refuse_occupied(path: Path) -> None:
    """A dead socket may be replaced; a live one, or a file of another kind, may not."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"{path} is not a socket: move it away or set another path", _EX_CANTCREAT)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) in (0, errno.EAGAIN):
            raise StartupError(f"another process listens on {path}: stop it first", _EX_CANTCREAT)


def _give_to_group(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        return  # no such group on this machine: the owner's group it is
    except PermissionError as error:
        log.warning("socket_group_not_set", path=str(path), group=group, error=str(error))


def listen_tcp(address: str, token_file: Path) -> Listener:
    """`address` is HOST:PORT or [V6]:PORT. Every request must carry the token of the file."""
    host, port = _host_and_port(address)
    token = read_token(token_file)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartupError(f"cannot listen on {address}: {error.strerror or error}", _EX_CANTCREAT) from error
    bound = sock.getsockname()
    shown = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
    return Listener(sock, f"http://{shown}:{bound[1]}", token=token)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(f"listen = {address!r} is not HOST:PORT, for example 127.0.0.1:8100")
    return host, int(port)


def read_token(path: Path) -> bytes:
    """The bearer token. Refuses a file that others than its owner can read. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            content = file.read(4097)
    except OSError as error:
        raise ConfigError(f"token file {path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ConfigError(f"token file {path} must be a plain file that only its owner can read: chmod 600")
    token = content.strip()
    if not 16 <= len(token) <= 4096 or not all(0x21 <= byte <= 0x7E for byte in token):
        raise ConfigError(f"token file {path} must hold one line of 16 to 4096 visible ASCII characters")
    return token


def inherited(environ: Mapping[str, str]) -> list[Listener]:
    """Unix sockets that the service manager listens on for us (LISTEN_FDS); [] when none.

    Other descriptors of the protocol (a descriptor store) are left alone, and so are TCP sockets:
    they have no credentials of the peer. Read-only is who is called READ_ONLY_NAME, by its path, or
    READ_ONLY_FD_NAME, by its name in LISTEN_FDNAMES.
    """
    text = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not (text.isascii() and text.isdigit() and len(text) < 10):
        return []
    count = int(text)
    names = dict(enumerate(environ.get("LISTEN_FDNAMES", "").split(":"), _FIRST_INHERITED_FD))
    found: list[Listener] = []
    for fd in range(_FIRST_INHERITED_FD, _FIRST_INHERITED_FD + count):
        try:
            listener = _inherit(fd, names.get(fd))
        except OSError as error:
            for listener in found:
                listener.close()
            raise StartupError(f"LISTEN_FDS={count}, but descriptor {fd} cannot be used: {error.strerror}") from error
        if listener is not None:
            found.append(listener)
    return found


def _inherit(fd: int, name: str | None) -> Listener | None:
    os.set_inheritable(fd, False)
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        return None
    path = Path(os.fsdecode(sock.getsockname()))
    try:
        rights = SocketRights.of(path.stat())
    except (OSError, ValueError):  # its file is gone, or it never had one
        rights = SocketRights(os.geteuid(), None)
    return Listener(sock, f"unix:{path}", name == READ_ONLY_FD_NAME or path.name == READ_ONLY_NAME, rights)
