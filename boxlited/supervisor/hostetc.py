"""`<home>/etc`: what a sandbox sees as /etc, kept in step with the host's.

Copies the few names that programs need, and of these only what everyone on the host may
read: a box whose uid 0 is the host's root must not find a private key below /etc/ssl. One
directory for all boxes: one mount a start, and a file replaced here is replaced in live boxes.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

NAMES = (
    "passwd", "group", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl",
    "pki", "ca-certificates", "localtime", "services", "protocols", "os-release", "mime.types",
)  # fmt: skip
OWN_FILES = {  # the host's own are mounted over these in a box with a network
    "hosts": b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
    "resolv.conf": b"",
}
MAX_FILE_BYTES = 8 << 20
MAX_DEPTH = 8


def sync(target: Path, source: Path = Path("/etc")) -> None:
    """Make `target` as `source` is now. Replaces only what changed; never writes in place. Raises OSError."""
    _make_directory(str(target))
    for name in NAMES:
        _copy(str(source / name), str(target / name), 0)
    for name, content in OWN_FILES.items():
        _put(str(target / name), content, None)
    for entry in os.scandir(target):
        if entry.name not in NAMES and entry.name not in OWN_FILES:
            _remove(entry.path)


def _copy(source: str, target: str, depth: int) -> None:
    try:
        seen = os.lstat(source)
        if stat.S_ISLNK(seen.st_mode):
            _link(os.readlink(source), target)
        elif stat.S_ISDIR(seen.st_mode) and seen.st_mode & 0o005 == 0o005 and depth < MAX_DEPTH:
            _copy_directory(source, target, depth)
        elif stat.S_ISREG(seen.st_mode) and seen.st_mode & 0o004 and seen.st_size <= MAX_FILE_BYTES:
            _copy_file(source, target, seen)
        else:
            _remove(target)
    except (FileNotFoundError, PermissionError):  # it went away, or is not for us
        _remove(target)


def _copy_directory(source: str, target: str, depth: int) -> None:
    _make_directory(target)
    names = set(os.listdir(source))
    for name in names:
        _copy(f"{source}/{name}", f"{target}/{name}", depth + 1)
    for name in os.listdir(target):
        if name not in names:
            _remove(f"{target}/{name}")


def _copy_file(source: str, target: str, seen: os.stat_result) -> None:
    try:
        have = os.lstat(target)
        if stat.S_ISREG(have.st_mode) and (have.st_mtime_ns, have.st_size) == (seen.st_mtime_ns, seen.st_size):
            return
    except FileNotFoundError:
        pass
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        _put(target, file.read(MAX_FILE_BYTES), seen.st_mtime_ns)


def _put(target: str, content: bytes, mtime_ns: int | None) -> None:
    if mtime_ns is None and _has(target, content):
        return
    _remove_directory(target)
    new = f"{target}.new"
    _remove(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(fd, 0o644)  # whatever the umask is
        if mtime_ns is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    os.rename(new, target)


def _has(path: str, content: bytes) -> bool:
    try:
        return not os.path.islink(path) and Path(path).read_bytes() == content
    except OSError:
        return False


def _link(destination: str, target: str) -> None:
    if os.path.islink(target) and os.readlink(target) == destination:
        return
    _remove_directory(target)
    new = f"{target}.new"
    _remove(new)
    os.symlink(destination, new)
    os.rename(new, target)


def _make_directory(path: str) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        _remove(path)
        os.mkdir(path)
    os.chmod(path, 0o755)


def _remove_directory(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)


def _remove(path: str) -> None:
    _remove_directory(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
