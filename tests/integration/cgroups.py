"""The control groups of a home, looked at beside the daemon: what is there, what a box joined, what is left."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def parents(home: Path, near: int | str = "self") -> Iterator[Path]:
    """The directories that a daemon of this home may have made, in every hierarchy; `near`: a process of its group."""
    name = f"boxlited-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"
    for line in Path(f"/proc/{near}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mounts = (
            [ROOT / controller for controller in controllers.split(",")] if controllers else [ROOT, ROOT / "unified"]
        )
        for mount in mounts:
            base = mount / path.lstrip("/")
            boxes = base.with_name(f"{base.stem}-boxes.service")  # under a service manager
            yield from (one / name for one in (base, base.parent, boxes) if (one / name).is_dir())


def remove(home: Path) -> None:
    """What a killed daemon left; its processes have ended."""
    for parent in list(parents(home)):
        for box in parent.iterdir():
            if box.is_dir():
                with suppress(OSError):
                    box.rmdir()
        with suppress(OSError):
            parent.rmdir()


def of_process(pid: int, limit: str) -> Path | None:
    """The directory where `limit` (cpu, memory, pids) is set for a process; None where nothing sets it."""
    unified = None
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if limit in controllers.split(","):
            return ROOT / limit / path.lstrip("/")
        if not controllers:
            unified = (ROOT if (ROOT / "cgroup.controllers").exists() else ROOT / "unified") / path.lstrip("/")
    return unified
