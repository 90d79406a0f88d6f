"""`exit` and `exit.previous`: how a workload ended, left by a shim that died.

Owns the JSON and the rename into the previous slot. The writer is less trusted than the
reader: reads are bounded, never block, and follow no link. Standard library only.
"""

import errno
import json
import os
import stat
from typing import NamedTuple

from boxlited.errors import StorageError
from boxlited.failpoints import hit

MAX_EXIT_BYTES = 65536
MAX_TEXT = 4096
MAX_SIGNAL_NAME = 16
_SIGNAL_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-")
_DIRECTORY_IN_THE_WAY = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST})
KINDS = frozenset({"signal", "panic", "error", "exited"})
ERROR_KINDS = frozenset(
    {"unsupported", "engine", "config", "not_found", "storage", "image", "network", "internal", "invalid_state"}
)


class ExitFileUnreadable(StorageError):
    """Something lies in the slot that is refused: no regular file, too large, not an exit record."""


class ExitInfo(NamedTuple):
    """One exit record. `exit_code` is 128 + n for a signal. `kind` is one of KINDS."""

    kind: str
    exit_code: int
    signal: str | None = None
    message: str | None = None
    location: str | None = None
    error_kind: str | None = None
    run_id: str | None = None
    ambiguous: bool = False  # signal or exit code 128 + n: the kernel was too old to tell

    @property
    def is_crash(self) -> bool:
        return self.kind != "exited"


def read_exit_file(path: "os.PathLike[str] | str") -> ExitInfo | None:
    """The record; None when there is none, or of a type that we do not know.

    Raises ExitFileUnreadable for what is refused; other OSErrors (EMFILE, EIO) pass through.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ExitFileUnreadable("the exit file is a link or a socket, not a regular file") from error
        if error.errno == errno.EACCES:  # the directory was open a moment ago: it is the file itself
            raise ExitFileUnreadable("the exit file is closed to the daemon by its mode") from error
        raise
    try:
        return decode(_read_regular(fd))
    finally:
        os.close(fd)


def _read_regular(fd: int) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ExitFileUnreadable("the exit file is not a regular file")
    if status.st_nlink > 1:
        raise ExitFileUnreadable("the exit file has more than one hard link")
    if status.st_size > MAX_EXIT_BYTES:
        raise ExitFileUnreadable(f"the exit file is larger than {MAX_EXIT_BYTES} bytes")
    data = os.read(fd, MAX_EXIT_BYTES + 1)
    if len(data) > MAX_EXIT_BYTES:
        raise ExitFileUnreadable(f"the exit file is larger than {MAX_EXIT_BYTES} bytes")
    return data


def decode(data: bytes) -> ExitInfo | None:
    """Parse a record. Unknown keys are ignored; an unknown type is None. Raises ExitFileUnreadable."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ExitFileUnreadable("the exit file is not JSON") from error
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise ExitFileUnreadable("the exit file holds no exit record")
    if content["type"] not in KINDS:
        return None
    code = content.get("exit_code")
    if isinstance(code, bool) or not isinstance(code, int) or not -(2**31) <= code < 2**31:
        raise ExitFileUnreadable("the exit file has no usable exit_code")
    return _build(content, code)


def _build(content: dict, code: int) -> ExitInfo:  # type: ignore[type-arg]
    kind = content["type"]
    error_kind = _text(content, "error_kind")
    if error_kind is not None and error_kind not in ERROR_KINDS:
        error_kind = "engine"
    return ExitInfo(
        kind,
        code,
        signal=_signal(content) if kind == "signal" else None,
        message=_text(content, "message"),
        location=_text(content, "location"),
        error_kind=error_kind,
        run_id=_text(content, "run_id"),
        ambiguous=content.get("ambiguous") is True,
    )


def _text(content: dict, key: str) -> str | None:  # type: ignore[type-arg]
    value = content.get(key)
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _signal(content: dict) -> str:  # type: ignore[type-arg]
    """A signal's name goes into rows and tables as it is, so nothing else may pass for one."""
    name = _text(content, "signal") or ""
    usable = name.startswith("SIG") and 3 < len(name) <= MAX_SIGNAL_NAME and _SIGNAL_LETTERS.issuperset(name)
    return name if usable else "unknown signal"


def encode(info: ExitInfo) -> bytes:
    """The bytes of the file; texts are cut so that the reader's bound always holds."""
    limit = MAX_TEXT
    while len(data := _encode(info, limit)) > MAX_EXIT_BYTES:
        limit //= 2
    return data


def _encode(info: ExitInfo, limit: int) -> bytes:
    content: dict[str, object] = {"type": info.kind, "exit_code": info.exit_code}
    for key in ("signal", "message", "location", "error_kind", "run_id"):
        value = getattr(info, key)
        if value is not None:
            content[key] = value[:limit]
    if info.ambiguous:
        content["ambiguous"] = True
    return json.dumps(content).encode()


def write_exit_file(path: "os.PathLike[str] | str", info: ExitInfo, *, sync_name: bool = True) -> None:
    """Write atomically: temporary name, fsync, rename, fsync of the directory. Raises OSError.

    Without `sync_name` a power cut within moments may take the name away, and never leaves half a file under it.
    """
    target = os.fspath(path)
    temporary = _temporary(target, os.getpid())
    _remove(temporary)  # of an earlier process with this pid
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            data = encode(info)
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write of the exit file")
            os.fsync(fd)
        finally:
            os.close(fd)
        hit("exit.before_rename")
        os.rename(temporary, target)
    except OSError:
        _remove(temporary)
        raise
    if sync_name:
        _sync_directory(os.path.dirname(target) or ".")


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # not there; or what keeps it there fails the open that follows


def stash(exit_path: "os.PathLike[str] | str", previous_path: "os.PathLike[str] | str") -> bool:
    """Move the active slot to the previous one, whatever lies there. Says whether anything did.

    A directory in either slot is no evidence: it goes aside under a name of its own.
    Raises OSError when the rename is refused for another reason.
    """
    try:
        os.rename(exit_path, previous_path)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _DIRECTORY_IN_THE_WAY:
            raise
        return _stash_around_directories(os.fspath(exit_path), os.fspath(previous_path))
    return True


def _stash_around_directories(exit_path: str, previous_path: str) -> bool:
    try:
        mode = os.lstat(exit_path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        _set_aside(exit_path)
        return True
    _set_aside(previous_path)
    os.rename(exit_path, previous_path)
    return True


def _set_aside(path: str) -> None:
    os.rename(path, f"{path}.refused-{os.urandom(4).hex()}")


def _temporary(target: str, pid: int) -> str:
    return f"{target}.{pid}.tmp"


def remove_half(path: "os.PathLike[str] | str", pid: int) -> None:
    """What a shim of this pid was killed over while it wrote its exit file. Call once it has ended."""
    try:
        os.unlink(_temporary(os.fspath(path), pid))
    except OSError:
        return  # there is none, or it stays: it is never read
