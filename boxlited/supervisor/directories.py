"""Box directories: made, removed by rename, quarantined, scanned.

Owns `box.json` and what happens to a directory as a whole. Never decides whether a
directory may go; blocking file I/O, to be called from a worker thread where it may be slow.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from boxlited.errors import BoxlitedError, ResourceExhausted, StorageError
from boxlited.model import BoxID, BoxSpec
from boxlited.supervisor.deletion import delete_tree
from boxlited.supervisor.layout import BoxLayout, HomeLayout

MAX_CONFIG_BYTES = 1 << 20
DOOMED = "removed-"  # begins the names in quarantine/ that are deleted without a grace period


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

    def prepare_home(self) -> None:
        """Create the home's directories, 0700."""
        for directory in (self._home.home, self._home.boxes_dir, self._home.quarantine_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create_all(self, configs: Sequence[BoxFile]) -> list[BoxlitedError | None]:
        """Make directories durable: configs, directories and parent are synced before return.

        One answer for each: None, or the StorageError or ResourceExhausted for which nothing of it is left.
        Everything is written before anything is synced, so that one commit of the journal serves all.
        """
        made = [_Made(config, self._home.box(BoxID.parse(config.box_id))) for config in configs]
        for one in made:
            one.attempt(one.write)
        for one in made:
            one.attempt(one.sync)
        try:
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
        """The box's config, or None when it is missing, unreadable, or of another box."""
        try:
            fd = os.open(layout.config, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            return None
        try:
            config = msgspec.json.decode(data, type=BoxFile)
        except (msgspec.DecodeError, RecursionError):
            return None
        return config if config.box_id == layout.box_id else None

    def remove(self, box_id: BoxID, stamp: str) -> None:
        """Delete a box's directory: renamed away at once, then deleted. Idempotent."""
        doomed = self._home.removed(box_id, stamp)
        try:
            os.rename(self._home.box(box_id).directory, doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error("move away the directory of the box", doomed, error) from error

    def delete_removed(self) -> None:
        """Delete what `remove` renamed away, also by an earlier daemon."""
        for entry in _entries(self._home.quarantine_dir):
            if entry.name.startswith(DOOMED):
                delete_tree(str(self._home.quarantine_dir), entry.name, DOOMED)

    def quarantine(self, name: str) -> Path:
        """Move an unknown entry of boxes/ to quarantine/, where it is kept for a grace period."""
        target = self._home.quarantined(name, f"{time.time_ns():x}")
        os.rename(self._home.boxes_dir / name, target)
        os.utime(target, follow_symlinks=False)  # the grace period begins now
        return target

    def purge_quarantine(self, grace_seconds: float) -> list[str]:
        """Delete what was kept for longer than the grace period; says which."""
        gone = []
        for entry in _entries(self._home.quarantine_dir):
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if entry.name.startswith("kept-") and age > grace_seconds:
                if entry.is_dir(follow_symlinks=False):
                    delete_tree(str(self._home.quarantine_dir), entry.name, DOOMED)
                else:
                    os.unlink(entry.path)
                gone.append(entry.name)
        return gone

    def names(self) -> list[str]:
        """Every entry of boxes/, whatever it is."""
        return [entry.name for entry in _entries(self._home.boxes_dir)]


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


def _make_missing(directories: Sequence[str]) -> None:
    for directory in directories:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass


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
                shutil.rmtree(self._directory, ignore_errors=True)
            self.error = storage_error("create the directory of the box", self._directory, error)

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
