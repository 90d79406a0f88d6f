"""Tar streams of files of this host: written piece by piece, and unpacked with distrust.

What comes out of a box may be hostile. Unpacking stays below its directory: names with ".." or a
leading "/" are refused, no symbolic link is ever followed below it, devices are refused. Memory is
flat in both directions.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, cast

from boxlited.errors import Internal, InvalidArgument

PIECE_BYTES = 256 * 1024
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


def pieces_of(content: bytes | IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    """Bytes, a file or pieces, as pieces."""
    if isinstance(content, bytes | bytearray):
        for start in range(0, len(content), PIECE_BYTES):
            yield bytes(content[start : start + PIECE_BYTES])
    elif hasattr(content, "read"):
        while piece := content.read(PIECE_BYTES):
            yield piece
    else:
        yield from content


# ---- writing


def packed(path: str, name: str) -> Iterator[bytes]:
    """The tar stream of a file, or of a directory and what is in it, as `name` ("" for what is in
    it alone). Owned by root: who owns it here means nothing in a box."""
    try:
        yield from _entry(path, name)
    except OSError as error:
        raise InvalidArgument(f"cannot read {error.filename or path}: {error.strerror}") from error
    yield _END


def _entry(path: str, name: str) -> Iterator[bytes]:
    seen = os.lstat(path)
    if stat.S_ISREG(seen.st_mode):
        yield from _file(path, name)
    elif stat.S_ISDIR(seen.st_mode):
        if name:
            yield _head(name, seen, tarfile.DIRTYPE)
        for entry in sorted(os.listdir(path)):
            yield from _entry(f"{path}/{entry}", f"{name}/{entry}" if name else entry)
    elif stat.S_ISLNK(seen.st_mode):
        yield _head(name, seen, tarfile.SYMTYPE, os.readlink(path))
    elif not stat.S_ISSOCK(seen.st_mode):  # a socket means nothing elsewhere: tar leaves it out too
        raise InvalidArgument(f"{path} is a device or a FIFO: only files, directories and links are copied")


def _file(path: str, name: str) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        seen = os.fstat(descriptor)
        yield _head(name, seen, tarfile.REGTYPE)
        left = seen.st_size
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise InvalidArgument(f"{path} became shorter while it was read; try again")
            left -= len(piece)
            yield piece
    if seen.st_size % _BLOCK:
        yield bytes(_BLOCK - seen.st_size % _BLOCK)


def _head(name: str, seen: os.stat_result, kind: bytes, target: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    entry.size = seen.st_size if kind == tarfile.REGTYPE else 0
    entry.mode, entry.mtime = stat.S_IMODE(seen.st_mode), seen.st_mtime
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# ---- reading


class Archive:
    """The members of a tar stream, in order. Raises Internal when it is damaged."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        try:
            reader = cast(IO[bytes], _Reader(chunks))
            self._tar = tarfile.open(fileobj=reader, mode="r|", bufsize=PIECE_BYTES)  # noqa: SIM115
        except tarfile.TarError as error:
            raise Internal(f"what the box sent is no tar archive: {error}") from error
        self._first = self._next()

    @property
    def first(self) -> tarfile.TarInfo | None:
        return self._first

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        member = self._first
        while member is not None:
            yield member
            member = self._next()

    def content(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        file = self._tar.extractfile(member)
        assert file is not None
        left = member.size
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise Internal("the archive of the box ends in the middle of a file")
            left -= len(piece)
            yield piece

    def _next(self) -> tarfile.TarInfo | None:
        self._tar.members = []  # type: ignore[attr-defined]  # it would keep every one of them
        try:
            member: tarfile.TarInfo | None = self._tar.next()
            return member
        except tarfile.TarError as error:
            raise Internal(f"the archive of the box is damaged: {error}") from error


class _Reader:
    """Chunks as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return piece


def parts_of(name: str) -> list[str]:
    """The components of a member's name. Raises InvalidArgument when they leave the directory."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise InvalidArgument(
            f"the archive of the box holds {name!r}, which leaves the directory; nothing of it was used"
        )
    return parts


class Unpacker:
    """Puts members below one directory. Close it by `finish`."""

    def __init__(self, directory: str) -> None:
        self._root = directory
        self._modes: list[tuple[list[str], int]] = []
        self._written: set[tuple[str, ...]] = set()

    def add(self, archive: Archive, member: tarfile.TarInfo, parts: list[str], linked: list[str] | None) -> None:
        """`parts`: where it lands. `linked`: where the file of which it is another name has landed."""
        if not parts:
            return
        if member.isdir():
            with _Directory(self._root, parts, make=True):
                self._modes.append((parts, member.mode & 0o777))
        elif member.isreg():
            self._file(archive, member, parts)
        elif member.issym():
            self._link(member.linkname, parts)
        elif member.islnk() and linked and tuple(linked) in self._written:
            self._another_name(linked, parts)
        else:
            raise InvalidArgument(
                f"{member.name!r} in the archive of the box is no file, directory or link to one of them"
            )

    def finish(self) -> None:
        """Directories get their modes last: one may be read-only."""
        for parts, mode in reversed(self._modes):
            with suppress(FileNotFoundError), _Directory(self._root, parts, make=False) as at:
                os.fchmod(at, mode)

    def _file(self, archive: Archive, member: tarfile.TarInfo, parts: list[str]) -> None:
        new = f".boxlited-{secrets.token_hex(8)}"
        with _Directory(self._root, parts[:-1], make=True) as at:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at)
            try:
                with open(descriptor, "wb", buffering=0) as file:
                    for piece in archive.content(member):
                        file.write(piece)
                    os.fchmod(descriptor, member.mode & 0o777)
                    os.utime(descriptor, (member.mtime, member.mtime))
                os.rename(new, parts[-1], src_dir_fd=at, dst_dir_fd=at)
            except BaseException:
                with suppress(OSError):
                    os.unlink(new, dir_fd=at)
                raise
        self._written.add(tuple(parts))

    def _link(self, target: str, parts: list[str]) -> None:
        with _Directory(self._root, parts[:-1], make=True) as at:
            with suppress(FileNotFoundError):
                os.unlink(parts[-1], dir_fd=at)
            os.symlink(target, parts[-1], dir_fd=at)
        self._written.discard(tuple(parts))

    def _another_name(self, linked: list[str], parts: list[str]) -> None:
        with (
            _Directory(self._root, linked[:-1], make=False) as source,
            _Directory(self._root, parts[:-1], make=True) as at,
        ):
            with suppress(FileNotFoundError):
                os.unlink(parts[-1], dir_fd=at)
            os.link(linked[-1], parts[-1], src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
        self._written.add(tuple(parts))


class _Directory:
    """A directory below `root`, opened component by component: a link on the way is refused."""

    def __init__(self, root: str, parts: list[str], make: bool) -> None:
        self._root, self._parts, self._make = root, parts, make
        self._descriptor = -1

    def __enter__(self) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._descriptor = os.open(self._root, flags)
        try:
            for part in self._parts:
                if self._make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=self._descriptor)
                inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=self._descriptor)
                os.close(self._descriptor)
                self._descriptor = inner
        except OSError as error:
            os.close(self._descriptor)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise InvalidArgument(f"{'/'.join([self._root, *self._parts])} is in the way: no directory") from error
            raise
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
