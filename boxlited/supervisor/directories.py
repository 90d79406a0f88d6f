"""Box directories: made, removed by rename, quarantined, scanned.

Owns `box.json` and what happens to a directory as a whole. Never decides whether a
directory may go; blocking file I/O, to be called from a worker thread where it may be slow.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from boxlited.errors import BoxlitedError, InvalidArgument, ResourceExhausted, StorageError
from boxlited.failpoints import hit
from boxlited.model import BoxID, BoxSpec, check_name
from boxlited.supervisor.deletion import delete_tree
from boxlited.supervisor.layout import DOOMED, KEPT, BoxLayout, HomeLayout

log = structlog.get_logger()

MAX_CONFIG_BYTES = 8 << 20  # a request's body is at most 1 MiB; with every default written out it is some more
WATCHED_SECONDS = 3600.0
NO_CONFIG = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})  # ELOOP a link, ENXIO a socket


class BoxFile(msgspec.Struct, frozen=True, kw_only=True):
    """`box.json`: written once at create; lets a lost row be rebuilt. Unknown keys are ignored."""

    box_id: str
    name: str
    created_at: float
    spec: BoxSpec
    version: int = 1


class Directories:
    def __init__(self, home: HomeLayout) -> None:
        self._home = home
        self._kept_since: dict[str, float] = {}  # CLOCK_BOOTTIME when we first saw a name in quarantine/

    def prepare_home(self) -> None:
        """Create the home's directories, 0700; what holds boxes is made private again. Raises OSError."""
        self._home.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._home.boxes_dir, self._home.quarantine_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory.stat().st_mode & 0o077:
                directory.chmod(0o700)

    def create_all(self, configs: Sequence[BoxFile]) -> list[BoxlitedError | None]:
        """Make directories durable: configs, directories and parent are synced before return.

        One answer for each: None, or the StorageError or ResourceExhausted for which nothing of it is left.
        Everything is written before anything is synced, so that one commit of the journal serves all.
        """
        made = [_Made(config, self._home.box(BoxID.parse(config.box_id))) for config in configs]
        for one in made:
            one.attempt(one.write)
        try:
            hit("create.before_sync")
            for one in made:
                one.attempt(one.sync)
            _sync_directory(self._home.boxes_dir)
        except OSError as error:
            for one in made:
                one.fail(error)
        return [one.error for one in made]

    def prepare_run(self, layout: BoxLayout) -> None:
        """Make again what `create` made below the box's directory, where it is missing."""
        try:
            _make_missing(layout.subdirectories)
        except OSError as error:
            raise storage_error("prepare the directory of the box", layout.directory, error) from error

    def read_config(self, layout: BoxLayout) -> BoxFile | None:
        """The box's config, or None when there is none: it is missing, garbage, or of another box.

        Raises StorageError or ResourceExhausted when it could not be looked at: it may be there.
        """
        try:
            data = _read_bounded(layout.config)
        except OSError as error:
            if error.errno in NO_CONFIG:
                return None
            raise storage_error("read the config of a box", layout.config, error) from error
        return _decode(data, layout.box_id)

    def remove(self, box_id: BoxID, stamp: str) -> None:
        """Delete a box's directory: renamed away at once, then deleted. Idempotent."""
        doomed = self._home.removed(box_id, stamp)
        try:
            self._rename(self._home.box(box_id).directory, doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error("move away the directory of the box", doomed, error) from error

    def _rename(self, directory: Path, target: Path) -> None:
        """Into quarantine/, which somebody may have removed: then ENOENT does not mean the directory."""
        try:
            os.rename(directory, target)
        except FileNotFoundError:
            self._home.quarantine_dir.mkdir(mode=0o700, exist_ok=True)
            os.rename(directory, target)

    def delete_removed(self) -> None:
        """Delete what `remove` renamed away, also by an earlier daemon. What resists is tried again later."""
        try:
            doomed = [entry for entry in _entries(self._home.quarantine_dir) if entry.name.startswith(DOOMED)]
        except OSError as error:
            log.warning("quarantine could not be looked through, it is tried again", error=error.strerror)
            return
        for entry in doomed:
            self._delete(entry)

    def _delete(self, entry: os.DirEntry[str]) -> bool:
        try:
            if entry.is_dir(follow_symlinks=False):
                return delete_tree(str(self._home.quarantine_dir), entry.name, DOOMED)
            os.unlink(entry.path)
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("not deleted from quarantine, it is tried again", name=entry.name, error=str(error))
            return False
        return True

    def quarantine(self, name: str) -> Path:
        """Move an unknown entry of boxes/ to quarantine/, where it is kept for a grace period. Raises OSError."""
        target = self._home.quarantined(name, f"{time.time_ns():x}")
        self._rename(self._home.boxes_dir / name, target)
        hit("quarantine.after_rename")
        os.utime(target, follow_symlinks=False)  # the grace period begins now
        return target

    def purge_quarantine(self, grace_seconds: float) -> list[str]:
        """Delete what was kept for longer than the grace period; says which.

        Its age is a matter of the wall clock. One that leaps must not delete what came a moment
        ago, so an hour of it must have passed before our own eyes, of a shorter period all.
        """
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        kept = [entry for entry in _entries(self._home.quarantine_dir) if entry.name.startswith(KEPT)]
        self._kept_since = {entry.name: self._kept_since.get(entry.name, now) for entry in kept}
        watched = min(grace_seconds, WATCHED_SECONDS)
        due = [entry for entry in kept if now - self._kept_since[entry.name] >= watched]
        return [entry.name for entry in due if _age(entry) > grace_seconds and self._delete(entry)]

    def names(self) -> list[str]:
        """Every entry of boxes/, whatever it is. Raises StorageError or ResourceExhausted."""
        try:
            hit("scan.begin")
            return [entry.name for entry in _entries(self._home.boxes_dir)]
        except OSError as error:
            raise storage_error("look through the directories of the boxes", self._home.boxes_dir, error) from error


def storage_error(doing: str, path: Path, error: OSError) -> StorageError | ResourceExhausted:
    """An OSError as an error that says what to do. Nothing was acknowledged."""
    text = f"cannot {doing} ({path}): {error.strerror} (errno {error.errno})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{text}: free some space and retry; nothing was changed")
    if error.errno in (errno.ENFILE, errno.EMFILE):
        return ResourceExhausted(f"{text}: too many open files; raise LimitNOFILE and retry")
    return StorageError(text)


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from list(entries)
    except FileNotFoundError:
        return


def _age(entry: os.DirEntry[str]) -> float:
    """Seconds; 0 for what is gone meanwhile."""
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


def _read_bounded(path: Path) -> bytes:
    """A plain file's content; nothing of any other kind of file, or of one that is too big."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size > MAX_CONFIG_BYTES:
            return b""
        return os.read(fd, MAX_CONFIG_BYTES)
    finally:
        os.close(fd)


def _decode(data: bytes, box_id: BoxID) -> BoxFile | None:
    try:
        config = msgspec.json.decode(data, type=BoxFile)
        check_name(config.name)
    except (ValueError, RecursionError, InvalidArgument):  # ValueError: not JSON, not UTF-8, not this shape
        return None
    return config if config.box_id == box_id else None


def _make_missing(directories: Sequence[str]) -> None:
    """A link is not taken for a directory: the shim would write to where it leads."""
    for directory in directories:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(directory).st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory) from None


class _Made:
    """One directory on its way. After a failure nothing of it is left, and no further step does anything."""

    def __init__(self, config: BoxFile, layout: BoxLayout) -> None:
        self._config = config
        self._path = layout.config
        self._directory = layout.directory
        self._subdirectories = layout.subdirectories
        self._fd = -1
        self._is_ours = False
        self.error: BoxlitedError | None = None

    def attempt(self, step: Callable[[], None]) -> None:
        if self.error is None:
            try:
                step()
            except OSError as error:
                self.fail(error)

    def write(self) -> None:
        os.mkdir(self._directory, 0o700)
        self._is_ours = True
        _make_missing(self._subdirectories)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        data = msgspec.json.encode(self._config)
        if len(data) > MAX_CONFIG_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if os.write(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        os.fsync(self._fd)
        self._close()
        _sync_directory(self._directory)

    def fail(self, error: OSError) -> None:
        if self.error is None:
            self._close()
            if self._is_ours:
                self._undo()
            self.error = storage_error("create the directory of the box", self._directory, error)

    def _undo(self) -> None:
        """Takes no descriptor: there may be none. Nobody else has written here yet."""
        with suppress(OSError):
            os.unlink(self._path)
        for directory in (*self._subdirectories, str(self._directory)):
            with suppress(OSError):
                os.rmdir(directory)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
