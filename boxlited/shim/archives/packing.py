"""Streams a file or a directory of the box as a tar (pax). Changes nothing.

A directory is packed under its own name; with `/.` at the end of the path, its content as `./`.
The first entry is what the path leads to, so whoever reads the stream learns its kind from it.
Links stay links. With `follow_symlinks` one that leads to somewhere inside the packed directory
gives what it leads to; one that leads out, to nothing, or back to a directory above stays a link.
Sockets, FIFOs and devices are left out, and so is what disappears meanwhile. A file that changes
its size while it is read is cut, or filled up with zeros. Hard links are packed as files, and
set-id bits are left out.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable

from boxlited.shim.archives.beneath import open_beneath
from boxlited.shim.archives.directories import READ, closing, kind_at
from boxlited.shim.archives.refusal import ArchiveRefused, Carried, Limits, refusing, shown, split_path
from boxlited.shim.archives.tarstream import BLOCK, CHUNK, STAGING_PREFIX

Write = Callable[[bytes], None]
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not keep us
END = bytes(2 * BLOCK)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO)  # or something else by now
_TYPES = ((stat.S_ISREG, tarfile.REGTYPE), (stat.S_ISDIR, tarfile.DIRTYPE), (stat.S_ISLNK, tarfile.SYMTYPE))

Identity = tuple[int, int]


def pack(path: str, write: Write, *, follow_symlinks: bool = False, limits: Limits = Limits()) -> None:
    """Packs what `path` leads to. Raises ArchiveRefused, or what `write` raises.

    What is wrong with the path itself is said before the first write; an error later means that
    the stream is not complete.
    """
    raw, names = split_path(path)
    with refusing("packing", raw):
        place = b"/" + b"/".join(names)
        with closing(os.open(place, os.O_PATH | os.O_CLOEXEC)) as fd:
            if not _is_packed(os.fstat(fd)):  # opening a device could do something
                raise ArchiveRefused("invalid_argument", f"{shown(raw)} is neither a file nor a directory")
        with closing(os.open(place, FILE)) as fd:
            info = os.fstat(fd)
            packer = Packer(_Out(write), fd, follow_symlinks, limits)
            if stat.S_ISDIR(info.st_mode):
                top = b"." if not names or raw.endswith(b"/.") else names[-1]
                packer.directory(fd, top, (), ())
            elif raw.endswith((b"/", b"/.")):
                raise ArchiveRefused("invalid_argument", f"{shown(raw)} is not a directory in the box")
            elif stat.S_ISREG(info.st_mode):
                packer.file(fd, names[-1])
            else:
                raise ArchiveRefused("invalid_argument", f"{shown(raw)} is neither a file nor a directory")
            packer.finish()


class _Out:
    """Gathers small pieces; large ones pass through."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._pieces: list[bytes] = []
        self._size = 0

    def put(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= CHUNK:
            self.flush()

    def flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces:
            try:
                self._write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            except OSError as error:
                raise Carried(error) from None


class Packer:
    """`root` is the directory that no followed link may leave."""

    def __init__(self, out: _Out, root: int, follow: bool, limits: Limits) -> None:
        self._out = out
        self._root = root
        self._follow = follow
        self._limits = limits
        self._count = 0

    def finish(self) -> None:
        self._out.put(END)
        self._out.flush()

    def directory(self, fd: int, name: bytes, below: tuple[bytes, ...], above: tuple[Identity, ...]) -> None:
        """A directory and all in it. `below` is its path from the root, `above` are the directories on the way."""
        info = os.fstat(fd)
        if len(below) >= self._limits.max_depth:
            raise ArchiveRefused(
                "invalid_argument", f"{shown(name)} is more than {self._limits.max_depth} directories deep"
            )
        self._header(name, info, b"")
        with os.scandir(fd) as entries:
            for entry in entries:
                own = os.fsencode(entry.name)
                if not own.startswith(STAGING_PREFIX):
                    self._member(fd, own, name + b"/" + own, (*below, own), (*above, (info.st_dev, info.st_ino)))

    def file(self, fd: int, name: bytes) -> None:
        """Exactly as many bytes as the header says, whatever happens to the file."""
        info = os.fstat(fd)
        self._header(name, info, b"")
        left = info.st_size
        while left:
            data = os.read(fd, min(left, CHUNK))
            if not data:
                break
            left -= len(data)
            self._out.put(data)
        while left:
            size = min(left, CHUNK)
            left -= size
            self._out.put(bytes(size))
        self._out.put(bytes(-info.st_size % BLOCK))

    def _member(
        self, parent: int, own: bytes, name: bytes, below: tuple[bytes, ...], above: tuple[Identity, ...]
    ) -> None:
        with refusing("packing", name):
            info = kind_at(own, parent)
            if info is None:
                return
            if stat.S_ISLNK(info.st_mode):
                if not (self._follow and self._followed(name, below, above)):
                    self._link(parent, own, name, info)
            elif _is_packed(info):
                fd = _open(own, READ if stat.S_ISDIR(info.st_mode) else FILE | os.O_NOFOLLOW, parent)
                if fd is not None:
                    with closing(fd):
                        self._opened(fd, name, below, above)

    def _opened(self, fd: int, name: bytes, below: tuple[bytes, ...], above: tuple[Identity, ...]) -> None:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            self.directory(fd, name, below, above)
        elif stat.S_ISREG(mode):
            self.file(fd, name)

    def _link(self, parent: int, own: bytes, name: bytes, info: os.stat_result) -> None:
        try:
            target = os.readlink(own, dir_fd=parent)
        except OSError as error:
            if error.errno in GONE:
                return
            raise
        self._header(name, info, target)

    def _followed(self, name: bytes, below: tuple[bytes, ...], above: tuple[Identity, ...]) -> bool:
        """Packs what a link leads to; False when it is to stay a link."""
        path = b"/".join(below)
        try:
            with closing(open_beneath(self._root, path, os.O_PATH)) as fd:
                info = os.fstat(fd)
            if not _is_packed(info) or (info.st_dev, info.st_ino) in above:
                return False
            fd = open_beneath(self._root, path, FILE)
        except OSError:
            return False
        with closing(fd):
            self._opened(fd, name, below, above)
        return True

    def _header(self, name: bytes, info: os.stat_result, link: bytes) -> None:
        self._count += 1
        if self._count > self._limits.max_entries:
            raise ArchiveRefused(
                "resource_exhausted", f"more than {self._limits.max_entries} entries: take them out in parts"
            )
        member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
        member.type = next(kind for test, kind in _TYPES if test(info.st_mode))
        member.linkname = link.decode("utf-8", "surrogateescape")
        member.size = info.st_size if member.type == tarfile.REGTYPE else 0
        member.mode = info.st_mode & 0o777
        member.mtime = int(info.st_mtime)
        member.uid, member.gid = info.st_uid, info.st_gid
        self._out.put(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def _is_packed(info: os.stat_result) -> bool:
    return stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)


def _open(name: bytes, flags: int, parent: int) -> int | None:
    """None when it has gone, or changed into something else. Raises OSError."""
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
