"""`shim.pid`: codec, reader, and the writer that the pre-exec hook uses.

Owns the format `<pid>\\n<start_time>\\n`; lines after the second belong to others and are
ignored. Standard library only: the spawner and every shim load it. The writer makes only
open, write and close calls on bytes computed beforehand.
"""

import errno
import os
import stat
from typing import NamedTuple

from boxlited.errors import StorageError

PID_RECORD_MAX_BYTES = 48
MAX_FILE_BYTES = 4096
_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1
_START_TIME_FIELD_AFTER_COMM = 19  # field 22 of the line, counted from the last ')'
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NOT_A_FILE = frozenset({errno.ENXIO, errno.ELOOP})  # a socket; a symbolic link


class PidRecord(NamedTuple):
    """Identity of a shim: pid and, unless the file is a legacy one, start time in clock ticks since boot."""

    pid: int
    start_time: int | None = None

    @classmethod
    def current(cls) -> "PidRecord":
        """The calling process. Only getpid, open, read and close."""
        return cls(os.getpid(), _own_start_time())

    @classmethod
    def decode(cls, data: bytes) -> "PidRecord":
        """Parse one or two lines. Raises StorageError unless line 1 is an unsigned 32-bit decimal;
        a missing or garbled line 2 makes a legacy record, and what follows need not even be text."""
        lines = data.split(b"\n", 2)
        pid = _unsigned(lines[0], _U32_MAX)
        if pid is None:
            raise StorageError(f"invalid pid {lines[0].strip()[:32]!r} in pid file")
        return cls(pid, _unsigned(lines[1], _U64_MAX) if len(lines) > 1 else None)

    def encode(self) -> bytes:
        """The bytes of the file, at most PID_RECORD_MAX_BYTES."""
        if self.start_time is None:
            return b"%d\n" % self.pid
        return b"%d\n%d\n" % (self.pid, self.start_time)


def _unsigned(line: bytes, maximum: int) -> int | None:
    try:
        digits = line.decode("utf-8").strip().removeprefix("+")  # a sign is fine, as in the seed's parser
    except UnicodeDecodeError:
        return None
    if not digits.isascii() or not digits.isdigit():
        return None
    significant = digits.lstrip("0")
    if len(significant) > 20:  # before int(), which refuses very long texts with an error of its own
        return None
    value = int(significant or "0")
    return value if value <= maximum else None


def parse_start_time(stat_line: bytes) -> int | None:
    """Field 22 of a /proc/PID/stat line; `comm` may hold spaces and ')'."""
    close = stat_line.rfind(b")")
    fields = stat_line[close + 1 :].split(None, _START_TIME_FIELD_AFTER_COMM + 1)
    if close < 0 or len(fields) <= _START_TIME_FIELD_AFTER_COMM:
        return None
    field = fields[_START_TIME_FIELD_AFTER_COMM]
    return int(field) if field.isdigit() and len(field) <= 20 and int(field) <= _U64_MAX else None


def _own_start_time() -> int | None:
    try:
        fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return parse_start_time(os.read(fd, 1024))
    except OSError:
        return None
    finally:
        os.close(fd)


class PidFileReader:
    """The daemon's side. Opens with care: the box's directory is not trusted."""

    def __init__(self, path: "os.PathLike[str] | str") -> None:
        self._path = os.fspath(path)

    def read(self) -> PidRecord:
        """Raises StorageError when the file is missing, no regular file or undecodable, and lets
        pass the OSErrors that prove nothing (EMFILE, EIO, ...)."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(f"failed to read pid file {self._path}: {error.strerror}") from error
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                raise StorageError(f"pid file {self._path} is not a regular file") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StorageError(f"pid file {self._path} is not a regular file")
            return PidRecord.decode(os.read(fd, MAX_FILE_BYTES))
        finally:
            os.close(fd)


class PidFileWriter:
    """The child's side. Constructed in the parent; `write` is for between fork and exec."""

    def __init__(self, path: "os.PathLike[str] | str | bytes") -> None:
        try:
            self._path = os.fsencode(path)
        except UnicodeEncodeError as error:
            raise StorageError(f"pid file path {path!r} cannot be encoded") from error
        if b"\0" in self._path:
            raise StorageError(f"pid file path {self._path!r} holds a NUL byte")

    def write(self, record: PidRecord) -> None:
        """Truncate and write. Raises OSError; a short write is an error (EIO).

        O_NONBLOCK: a FIFO planted in the file's place is an error, not a child that hangs.
        """
        data = record.encode()
        fd = os.open(self._path, _WRITE, 0o644)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):
            raise OSError(errno.EIO, "short write of the pid file")
