"""A strict reader of tar streams: ustar, GNU and pax, not compressed. Touches no file system.

Reads each byte once, in order, with flat memory. What two readers could understand in two ways is
refused: data behind an entry that has none, a size in octal that is no number, a stream that ends
without its end marker, or goes on behind it. `tarfile` takes most of these in silence.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from boxlited.shim.archives.refusal import MAX_NAME_BYTES, MAX_PATH_BYTES, ArchiveRefused, Carried, Limits, shown

BLOCK = 512
CHUNK = 1 << 20
MAX_HEADER_BYTES = 1 << 20  # of one extended header
STAGING_PREFIX = b".boxlited-put-"

FILE, DIRECTORY, SYMLINK, HARD_LINK = "file", "directory", "symbolic link", "hard link"
_KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"5": DIRECTORY, b"2": SYMLINK, b"1": HARD_LINK}
_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file (make the archive without --sparse)",
    b"M": "a part of a file of several volumes",
    b"V": "a volume label",
    b"D": "a directory of an incremental backup",
}
_OF_ENTRY = (b"path", b"linkpath", b"size", b"mtime")
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ")
_MTIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_ZERO_BLOCK = bytes(BLOCK)

Read = Callable[[int], bytes]


class Entry(NamedTuple):
    """`names` are the components of its path, checked; `name` is what the archive calls it."""

    name: bytes
    names: tuple[bytes, ...]
    kind: str
    size: int
    mode: int
    mtime_ns: int
    link: bytes


class TarReader:
    """Iterate it; the content of a file is taken with `content()` before the next entry."""

    def __init__(self, read: Read, limits: Limits) -> None:
        self._read = read
        self._limits = limits
        self._buffer = memoryview(b"")
        self._taken = 0
        self._headers = 0
        self._left = 0  # of the present entry's content
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        extended: dict[bytes, bytes] = {}
        while (block := self._header()) is not None:
            kind, size = block[156:157], _number(block[124:136], "size")
            if kind in (b"x", b"g", b"L", b"K"):
                self._extend(kind, size, extended)
                continue
            entry = _entry(block, extended, self._limits)
            extended = {}
            self._left, self._padding = entry.size, -entry.size % BLOCK
            yield entry
            if self._left:
                raise AssertionError("the content was not taken")
            self._skip_padding()
        if extended:
            raise _damaged("it ends behind an extended header")
        self._check_end()

    def content(self) -> Iterator[memoryview]:
        """The present entry's content in pieces of at most 1 MiB."""
        while self._left:
            piece = self._some(min(self._left, CHUNK))
            self._left -= len(piece)
            yield piece

    def _header(self) -> bytes | None:
        """The next header block; None at the end marker."""
        block = self._exactly(BLOCK)
        if block == _ZERO_BLOCK:
            return None
        self._headers += 1
        if self._headers > self._limits.max_entries:
            raise ArchiveRefused(
                "resource_exhausted", f"the archive has more than {self._limits.max_entries} entries: send it in parts"
            )
        total = _number(block[148:156], "checksum")
        plain = sum(block) - sum(block[148:156]) + 8 * 32
        if total != plain:
            raise _damaged("a header has a wrong checksum; a compressed archive must be unpacked first")
        return block

    def _extend(self, kind: bytes, size: int, extended: dict[bytes, bytes]) -> None:
        """Takes in a header that is about the next entry, or (`g`) about none that we care for."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ArchiveRefused("invalid_argument", f"an extended header is larger than {MAX_HEADER_BYTES} bytes")
        data = self._exactly(size)
        self._padding = -size % BLOCK
        self._skip_padding()
        if kind == b"L":
            extended[b"path"] = data.rstrip(b"\0")
        elif kind == b"K":
            extended[b"linkpath"] = data.rstrip(b"\0")
        else:
            records = _records(data)
            if kind == b"g" and any(key in _OF_ENTRY for key in records):
                raise ArchiveRefused("invalid_argument", "a global header sets the path or size of every entry")
            extended.update({key: value for key, value in records.items() if key in _OF_ENTRY})

    def _check_end(self) -> None:
        """Behind the first zero block: nothing, or zeros to the end of the stream."""
        while piece := self._piece(CHUNK):
            if piece != bytes(len(piece)):
                raise _damaged("it goes on behind its end marker")

    def _skip_padding(self) -> None:
        if self._padding and self._exactly(self._padding).strip(b"\0"):
            raise _damaged("what fills up a block is not zero")
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        if len(data) == size:
            return bytes(data)
        whole = bytearray(data)
        while len(whole) < size:
            whole += self._some(size - len(whole))
        return bytes(whole)

    def _some(self, size: int) -> memoryview:
        """1 to `size` bytes. Raises ArchiveRefused at the end of the stream; empty for size 0."""
        piece = self._piece(size)
        if size and not piece:
            if not self._taken:
                raise _damaged("it is empty")
            raise _damaged("it is cut short: its end marker is missing")
        return piece

    def _piece(self, size: int) -> memoryview:
        if not self._buffer and size:
            try:
                self._buffer = memoryview(self._read(CHUNK))
            except OSError as error:
                raise Carried(error) from None
            self._taken += len(self._buffer)
            if self._taken > self._limits.max_bytes:
                raise ArchiveRefused(
                    "resource_exhausted", f"the archive is larger than {self._limits.max_bytes} bytes: send it in parts"
                )
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece


def _damaged(what: str) -> ArchiveRefused:
    return ArchiveRefused("invalid_argument", f"the archive is not a whole tar: {what}")


def _number(field: bytes, name: str) -> int:
    """Octal digits, or GNU's base 256 with the first bit set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise _damaged(f"a header's {name} is no number")
    return int(digits, 8) if digits else 0


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: each 'LENGTH KEY=VALUE\\n'."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise _damaged("a pax record has a wrong length")
        key, equals, value = data[match.end() : end - 1].partition(b"=")
        if not key or not equals:
            raise _damaged("a pax record has no key")
        if key.startswith(b"GNU.sparse."):
            raise ArchiveRefused("invalid_argument", "the archive holds sparse files: make it without --sparse")
        found[key] = value
        at = end
    return found


def _entry(block: bytes, extended: dict[bytes, bytes], limits: Limits) -> Entry:
    name = extended.get(b"path") or _name(block)
    flag = block[156:157]
    if flag in _REFUSED:
        raise ArchiveRefused("invalid_argument", f"entry {shown(name)} is {_REFUSED[flag]}, which is not taken")
    if flag not in _KINDS:
        raise ArchiveRefused("invalid_argument", f"entry {shown(name)} has the unknown type {shown(flag)}")
    kind = DIRECTORY if flag == b"\0" and name.endswith(b"/") else _KINDS[flag]
    size = _size(block, extended, name)
    if size and kind != FILE:
        raise ArchiveRefused("invalid_argument", f"entry {shown(name)} is a {kind} with content")
    names = check_names(name, limits.max_depth)
    if kind != DIRECTORY and (not names or name.endswith(b"/")):
        raise ArchiveRefused("invalid_argument", f"entry {shown(name)} is a {kind} with the name of a directory")
    link = extended.get(b"linkpath", block[157:257].split(b"\0", 1)[0]) if kind in (SYMLINK, HARD_LINK) else b""
    return Entry(name, names, kind, size, _number(block[100:108], "mode") & 0o777, _mtime(block, extended, name), link)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _size(block: bytes, extended: dict[bytes, bytes], name: bytes) -> int:
    text = extended.get(b"size")
    if text is None:
        size = _number(block[124:136], "size")
    else:
        size = int(text) if text.isdigit() and len(text) <= 20 else -1
    if size < 0:
        raise ArchiveRefused("invalid_argument", f"the size of entry {shown(name)} is no number")
    return size


def _mtime(block: bytes, extended: dict[bytes, bytes], name: bytes) -> int:
    text = extended.get(b"mtime")
    if text is None:
        seconds, nanoseconds = _number(block[136:148], "mtime"), 0
    else:
        match = _MTIME.fullmatch(text)
        if match is None:
            raise ArchiveRefused("invalid_argument", f"the time of entry {shown(name)} is no number")
        sign = -1 if match[1] else 1
        seconds, nanoseconds = sign * int(match[2]), sign * int((match[3] or b"").ljust(9, b"0")[:9])
    inside = -(2**31) <= seconds < 2**33  # what every file system can store
    return seconds * 10**9 + nanoseconds if inside else 0


def check_names(name: bytes, max_depth: int) -> tuple[bytes, ...]:
    """The components of an entry's path; () is the root of the transfer. Raises ArchiveRefused."""
    problem = None
    names = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if name.startswith(b"/"):
        problem = "is absolute"
    elif not name:
        problem = "has no name"
    elif b"\0" in name:
        problem = "holds a NUL character"
    elif b".." in names:
        problem = "holds '..'"
    elif len(name) > MAX_PATH_BYTES or any(len(part) > MAX_NAME_BYTES for part in names):
        problem = f"is longer than {MAX_PATH_BYTES} bytes, or one of its names than {MAX_NAME_BYTES}"
    elif len(names) > max_depth:
        problem = f"is more than {max_depth} directories deep"
    elif any(part.startswith(STAGING_PREFIX) for part in names):
        problem = f"has a name that begins with {STAGING_PREFIX.decode()}, which is ours"
    if problem is not None:
        raise ArchiveRefused("invalid_argument", f"entry {shown(name)} {problem}")
    return names


def check_link(entry: Entry) -> None:
    """A symbolic link must stay inside: relative, and `..` only at its beginning.

    Behind a name, `..` depends on where that name leads: `s -> .` makes `s/../x` leave the root,
    although its letters do not. At the beginning it counts real directories only.
    """
    parts = [part for part in entry.link.split(b"/") if part not in (b"", b".")]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    if not entry.link or b"\0" in entry.link or len(entry.link) >= MAX_PATH_BYTES:
        problem = "has no target that a link can have"
    elif entry.link.startswith(b"/"):
        problem = f"leads to the absolute path {shown(entry.link)}"
    elif up >= len(entry.names):
        problem = f"leads out of the archive, to {shown(entry.link)}"
    elif b".." in parts[up:]:
        problem = f"leads to {shown(entry.link)}: '..' is taken only at the beginning of a target"
    else:
        return
    raise ArchiveRefused("invalid_argument", f"symbolic link {shown(entry.name)} {problem}")
