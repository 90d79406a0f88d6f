"""Takes a tar stream into a directory: all of it or nothing, and nothing outside.

The whole stream is read and checked before anything is visible. Owners, set-id bits and everything
but names, content, modes, times and links are left out.

Where it goes: into `path` when that is a directory, when it ends with a slash, or when the archive
is one of a directory; an archive of one file gets `path` as its name. Missing directories are made.
Links in `path` itself are followed, as everybody does who says /var/run; below it none is.
"""

import contextlib
import os
from typing import NamedTuple

from boxlited.shim.archives.directories import PASS, Cursor, closing, kind_at
from boxlited.shim.archives.merging import Merge
from boxlited.shim.archives.refusal import ArchiveRefused, Limits, failed, refusing, shown, split_path
from boxlited.shim.archives.staging import Staging, sweep
from boxlited.shim.archives.tarstream import (
    DIRECTORY,
    FILE,
    HARD_LINK,
    SYMLINK,
    Entry,
    Read,
    TarReader,
    check_link,
    check_names,
)

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Destination(NamedTuple):
    """`base` is the deepest directory that exists, `missing` the names below it that do not."""

    raw: bytes
    base: int
    missing: tuple[bytes, ...]


def unpack(
    read: Read, path: str, *, overwrite: bool, limits: Limits = Limits(), source_is_dir: bool | None = None
) -> None:
    """Unpacks what `read` gives (b"" is its end) at `path`. Raises ArchiveRefused, or what `read` raises.

    `source_is_dir` is what the sender says the archive is of; None leaves it to the archive.
    """
    raw, names = split_path(path)
    with refusing("unpacking to", raw):
        destination = _find(raw, names)
        with closing(destination.base):
            sweep(destination.base)
            with Staging(destination.base) as staging:
                _unpack(TarReader(read, limits), destination, staging, overwrite, source_is_dir)


def _find(raw: bytes, names: list[bytes]) -> Destination:
    """Walks down as far as there are directories. Raises ArchiveRefused or OSError."""
    base = os.open(b"/", PASS)
    try:
        for index, name in enumerate(names):
            try:
                below = os.open(name, PASS, dir_fd=base)
            except (FileNotFoundError, NotADirectoryError):
                last = index == len(names) - 1 and not _names_directory(raw)
                if not last and kind_at(name, base) is not None:
                    there = b"/" + b"/".join(names[: index + 1])
                    raise ArchiveRefused("invalid_argument", f"{shown(there)} is not a directory in the box") from None
                return Destination(raw, base, tuple(names[index:]))
            os.close(base)
            base = below
    except BaseException:
        os.close(base)
        raise
    return Destination(raw, base, ())


def _names_directory(raw: bytes) -> bool:
    return raw.endswith((b"/", b"/."))


def _unpack(
    reader: TarReader, destination: Destination, staging: Staging, overwrite: bool, source_is_dir: bool | None
) -> None:
    unpacker = Unpacker(staging)
    with contextlib.closing(unpacker):
        for entry in reader:
            unpacker.take(entry, reader)
    single = unpacker.single
    into_directory = not destination.missing or _names_directory(destination.raw) or source_is_dir is True
    if into_directory or single is None or (single.kind != FILE and source_is_dir is not False):
        top = _place_tree(staging, destination.missing)
    else:
        top = _place_file(staging, destination.missing, single)
    merge = Merge(staging, top, destination.base, overwrite)
    merge.check()
    merge.commit()
    merge.settle(destination.missing)


def _place_tree(staging: Staging, missing: tuple[bytes, ...]) -> int:
    """The directory whose content goes into the base: the tree, below the directories that are missing."""
    if not missing:
        return staging.tree
    parents = Cursor(staging.ready, make=True)
    try:
        parent = parents.go(missing[:-1])
        os.rename(b"tree", missing[-1], src_dir_fd=staging.fd, dst_dir_fd=parent)
        os.fchmod(staging.tree, 0o755)
    finally:
        parents.close()
    return staging.ready


def _place_file(staging: Staging, missing: tuple[bytes, ...], entry: Entry) -> int:
    parents, place = Cursor(staging.ready, make=True), Cursor(staging.tree, make=False)
    try:
        source, parent = place.go(entry.names[:-1]), parents.go(missing[:-1])
        os.rename(entry.names[-1], missing[-1], src_dir_fd=source, dst_dir_fd=parent)
    finally:
        parents.close()
        place.close()
    return staging.ready


class Unpacker:
    """Builds the tree of a staging directory, entry by entry. `single` is the only entry, unless there are more."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._cursor = Cursor(staging.tree, make=True)
        self._sources = Cursor(staging.tree, make=False)
        self._count = 0
        self._first: Entry | None = None

    @property
    def single(self) -> Entry | None:
        return self._first if self._count == 1 and self._first and self._first.kind != DIRECTORY else None

    def close(self) -> None:
        self._cursor.close()
        self._sources.close()

    def take(self, entry: Entry, reader: TarReader) -> None:
        """Raises ArchiveRefused or OSError."""
        self._count += 1
        self._first = self._first or entry
        try:
            self._take(entry, reader)
        except FileExistsError:
            raise ArchiveRefused(
                "invalid_argument", f"entry {shown(entry.name)} comes twice, as a {entry.kind} and as something else"
            ) from None
        except NotADirectoryError:
            raise ArchiveRefused(
                "invalid_argument",
                f"entry {shown(entry.name)} is below something that is no directory in the archive, such as a link",
            ) from None
        except OSError as error:
            raise failed("unpacking entry", entry.name, error) from None

    def _take(self, entry: Entry, reader: TarReader) -> None:
        if entry.kind == DIRECTORY:
            fd = self._cursor.go(entry.names)
            os.fchmod(fd, entry.mode | 0o700)
            self._staging.directories.add(entry.names, 0, entry.mtime_ns, os.fstat(fd).st_ino, entry.mode)
            return
        parent, name = self._cursor.go(entry.names[:-1]), entry.names[-1]
        if entry.kind == SYMLINK:
            self._symlink(entry, parent, name)
        elif entry.kind == HARD_LINK:
            self._hard_link(entry, parent, name)
        else:
            self._file(entry, parent, name, reader)

    def _file(self, entry: Entry, parent: int, name: bytes, reader: TarReader) -> None:
        try:
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
        except FileExistsError:
            if not _is_file(name, parent):
                raise
            os.unlink(name, dir_fd=parent)  # the later of two files counts, as everywhere
            fd = os.open(name, NEW, 0o600, dir_fd=parent)
        with closing(fd):
            for piece in reader.content():
                while piece:
                    piece = piece[os.write(fd, piece) :]
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _symlink(self, entry: Entry, parent: int, name: bytes) -> None:
        check_link(entry)
        os.symlink(entry.link, name, dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        problem = (
            f"hard link {shown(entry.name)} leads to {shown(entry.link)}, which is no earlier file of this archive"
        )
        try:
            target = check_names(entry.link, len(entry.link))
            source = self._sources.go(target[:-1])
            found = bool(target) and _is_file(target[-1], source)
        except (ArchiveRefused, OSError):
            found = False
        if not found:
            raise ArchiveRefused("invalid_argument", problem)
        os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _is_file(name: bytes, parent: int) -> bool:
    info = kind_at(name, parent)
    return info is not None and (info.st_mode & 0o170000) == 0o100000
