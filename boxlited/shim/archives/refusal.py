"""What a transfer may not do, and how much it may take. Owns the words and codes of a refusal.

`kind` is always one of the codes of `boxlited.errors`. A message names the entry and is one
bounded printable line: names come from archives and boxes, which nobody trusts.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

MAX_SHOWN = 200
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096

KINDS = {
    errno.ENOENT: "not_found",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.EEXIST: "already_exists",
    errno.ENAMETOOLONG: "invalid_argument",
    errno.ENOTDIR: "invalid_argument",
    errno.ELOOP: "invalid_argument",
    errno.EMFILE: "resource_exhausted",
    errno.ENFILE: "resource_exhausted",
    errno.ENOMEM: "resource_exhausted",
}


class ArchiveRefused(Exception):
    """A transfer that was refused or failed, as the user may hear it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Limits(NamedTuple):
    """`max_bytes` counts the whole stream; `max_entries` every header of it; `max_depth` path components."""

    max_bytes: int = 16 << 30
    max_entries: int = 1_000_000
    max_depth: int = 100


def shown(name: bytes) -> str:
    """A name as one bounded printable word in quotes."""
    text = name.decode("utf-8", "backslashreplace")
    text = repr(text) if text.isprintable() else ascii(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


class Carried(Exception):
    """An OSError of the caller's own channel on its way out: it is none of the box's files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def refusing(operation: str, path: bytes) -> Iterator[None]:
    """Turns an OSError into a refusal that says what was done to what, and why that failed."""
    try:
        yield
    except Carried as carried:
        raise carried.error from None
    except OSError as error:
        raise failed(operation, path, error) from None


def failed(operation: str, path: bytes, error: OSError) -> ArchiveRefused:
    kind = KINDS.get(error.errno or 0, "storage_error")
    return ArchiveRefused(kind, f"{operation} {shown(path)} failed: {error.strerror}")


def split_path(path: str) -> tuple[bytes, list[bytes]]:
    """An absolute path as bytes and as its names. Raises ArchiveRefused."""
    raw = path.encode("utf-8", "surrogateescape")
    if not raw.startswith(b"/"):
        raise ArchiveRefused("invalid_argument", f"path {shown(raw)} is not absolute: begin it with /")
    if b"\0" in raw:
        raise ArchiveRefused("invalid_argument", f"path {shown(raw)} holds a NUL character")
    if len(raw) > MAX_PATH_BYTES:
        raise ArchiveRefused("invalid_argument", f"path {shown(raw)} is longer than {MAX_PATH_BYTES} bytes")
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise ArchiveRefused("invalid_argument", f"path {shown(raw)} holds '..': write it without")
    if any(len(name) > MAX_NAME_BYTES for name in names):
        raise ArchiveRefused("invalid_argument", f"a name in path {shown(raw)} is longer than {MAX_NAME_BYTES} bytes")
    return raw, names
