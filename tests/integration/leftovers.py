"""What must not be left of any fault: descriptors, processes, temporary files, directories, control groups.

Looks from outside: at /proc, the home and the cgroup file system. Each function says what is too much, in words.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.integration import cgroups

TEMPORARY = (".tmp", ".new")
KINDS = ("anon_inode:[pidfd]", "pipe", "/memfd")  # what a daemon at rest holds of boxes, by the beginning of the link


def descriptors(pid: int, home: Path) -> Counter[str]:
    """What a process holds: its pipes, its pidfds, its memory files, and whatever lies below the home."""
    held: Counter[str] = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            link = os.readlink(fd)
            held.update(kind for kind in KINDS if link.startswith(kind))
            if link.startswith(f"{home}/"):
                held[link.removeprefix(f"{home}/")] += 1
    return held


def of_boxes(pid: int, home: Path, shims: int) -> list[str]:
    """Descriptors that belong to no live shim: each of those costs one pidfd, and nothing else."""
    held = descriptors(pid, home)
    wrong = [f"{number} of {name}" for name, number in held.items() if name.startswith(("boxes/", "quarantine/"))]
    if held["anon_inode:[pidfd]"] != shims:
        wrong.append(f"{held['anon_inode:[pidfd]']} pidfds for {shims} live shims")
    if held["/memfd"]:
        wrong.append(f"{held['/memfd']} memory files")
    return wrong


def children(pid: int) -> list[int]:
    """Of any of its threads."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(word) for word in path.read_text().split()]
    return found


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def zombies(pid: int) -> list[int]:
    """Ended and not reaped, below a process."""
    return [one for one in descendants(pid) if _state(one) == "Z" and not _is_of_a_box(one, pid)]


def _is_of_a_box(pid: int, top: int) -> bool:
    """A box may have zombies of its own: only what the daemon and its spawner should reap counts."""
    parent = _parent(pid)
    return parent != top and parent not in children(top)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["", "0"]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def files(home: Path) -> list[str]:
    """Temporary files, and what waits for its deletion."""
    wrong = [f"etc/{name}" for name in os.listdir(home / "etc") if name.endswith(TEMPORARY)]
    wrong += [name for name in os.listdir(home) if name.endswith(TEMPORARY)]
    wrong += [f"quarantine/{name}" for name in os.listdir(home / "quarantine") if name.startswith("removed-")]
    for box in (home / "boxes").iterdir():
        with suppress(FileNotFoundError, NotADirectoryError):
            wrong += [f"boxes/{box.name}/{name}" for name in os.listdir(box) if name.endswith(TEMPORARY)]
    return wrong


def groups(home: Path, alive: Iterable[str]) -> list[str]:
    """Control groups of boxes that do not run."""
    running = set(alive)
    return [
        str(group) for parent in cgroups.parents(home) for group in parent.iterdir()
        if group.is_dir() and group.name not in running and len(group.name) == 16
    ]  # fmt: skip
