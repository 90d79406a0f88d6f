"""Every path name of the home directory, and nobody else joins path strings.

Builds names only; does no I/O. A `BoxLayout` exists only for a parsed `BoxID`.
"""

from __future__ import annotations

import os
from pathlib import Path

from boxlited.model import BoxID

DOOMED = "removed-"  # begins the names in quarantine/ that are deleted without a grace period
KEPT = "kept-"  # begins the names of what came from boxes/ without a row
MAX_KEPT_NAME_BYTES = 200

_SUBDIRECTORIES = ("logs", "sockets", "tmp", "upper", "work")


class HomeLayout:
    """Paths below `BOXLITED_HOME`."""

    __slots__ = ("home",)

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def lock_file(self) -> Path:
        return self.home / "boxlited.lock"

    @property
    def database_dir(self) -> Path:
        return self.home / "db"

    @property
    def database(self) -> Path:
        return self.database_dir / "boxlited.db"

    @property
    def boxes_dir(self) -> Path:
        return self.home / "boxes"

    @property
    def quarantine_dir(self) -> Path:
        return self.home / "quarantine"

    @property
    def etc_dir(self) -> Path:
        """What sandboxes see as /etc; see hostetc.py."""
        return self.home / "etc"

    @property
    def control_key(self) -> Path:
        """The home's secret; see controlkey.py."""
        return self.home / "control.key"

    def box(self, box_id: BoxID) -> BoxLayout:
        return BoxLayout(self.boxes_dir, box_id)

    def removed(self, box_id: BoxID, run: str) -> Path:
        """Where a removed box's directory waits for its deletion."""
        return self.quarantine_dir / f"{DOOMED}{box_id}-{run}"

    def quarantined(self, name: str, stamp: str) -> Path:
        """Where a directory goes that recovery would neither touch nor delete at once."""
        cut = os.fsdecode(os.fsencode(name)[:MAX_KEPT_NAME_BYTES])  # a name of 255 bytes has no room for more
        return self.quarantine_dir / f"{KEPT}{stamp}-{cut}"


class BoxLayout:
    """Paths below one box's directory."""

    __slots__ = ("box_id", "directory")

    def __init__(self, boxes_dir: Path, box_id: BoxID) -> None:
        self.box_id = box_id
        self.directory = boxes_dir / box_id

    @property
    def config(self) -> Path:
        return self.directory / "box.json"

    @property
    def pid_file(self) -> Path:
        return self.directory / "shim.pid"

    @property
    def exit_file(self) -> Path:
        return self.directory / "exit"

    @property
    def exit_previous(self) -> Path:
        return self.directory / "exit.previous"

    @property
    def shim_stderr(self) -> Path:
        return self.directory / "shim.stderr"

    @property
    def logs_dir(self) -> Path:
        return self.directory / "logs"

    @property
    def console_log(self) -> Path:
        return self.logs_dir / "console.log"

    @property
    def sockets_dir(self) -> Path:
        return self.directory / "sockets"

    @property
    def control_socket(self) -> Path:
        return self.sockets_dir / "control.sock"

    @property
    def tmp_dir(self) -> Path:
        return self.directory / "tmp"

    @property
    def upper_dir(self) -> Path:
        return self.directory / "upper"

    @property
    def work_dir(self) -> Path:
        return self.directory / "work"

    @property
    def subdirectories(self) -> tuple[str, ...]:
        """Created with the box, mode 0700. Plain strings: every create and start goes over them."""
        directory = str(self.directory)
        return tuple(f"{directory}/{name}" for name in _SUBDIRECTORIES)
