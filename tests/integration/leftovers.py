"""What is there, seen past the daemon: shims; and what must not be left of any fault, such as descriptors, processes,
temporary files, control groups.

Looks from outside: at /proc, the home and the cgroup file system. Each function says what is too much, in words.
Standard library only: the tests of the virtual machine run it inside of that.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration import cgroups

TEMPORARY = (".tmp", ".new")
KINDS = ("anon_inode:[pidfd]", "pipe", "/memfd")  # what a daemon at rest holds of boxes, by the beginning of the link


def shims(home: Path) -> list[tuple[str, int]]:
    """(box id, pid) of every live shim of a home.

    What a shim forks looks like it until its exec, and is none: a shim's parent is never a shim.
    """
    found = []
    boxes = f"{home}/boxes/"
    for pid in pids():
        with suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/2")
            if boxes in target and is_shim(pid) and is_alive(pid) and not is_shim(_parent(pid)):
                found.append((target.partition(boxes)[2].split("/")[0], pid))
    return found


def is_shim(pid: int) -> bool:
    path = Path(f"/proc/{pid}/comm")
    return path.exists() and path.read_text().strip() == "boxlited-shim"


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_alive(pid: int) -> bool:
    """Alive and no zombie."""
    return _state(pid) not in ("", "Z", "X")


def named(mark: Path) -> list[int]:
    """Everything alive that was started with this path in its command, but not who asks and what he is below."""
    found, above = [], ancestors()
    for pid in pids():
        with suppress(OSError):
            if os.fsencode(mark) in Path(f"/proc/{pid}/cmdline").read_bytes() and is_alive(pid) and pid not in above:
                found.append(pid)
    return found


def ancestors() -> set[int]:
    """This process, its parent, and so on."""
    found, pid = set(), os.getpid()
    while pid > 0:
        found.add(pid)
        pid = _parent(pid)
    return found


def left(
    daemon: int, home: Path, mark: Path, live: Collection[tuple[str, int]], seconds: float
) -> dict[str, list[Any]]:
    """The sixth line of the oracle, by kinds; what is being cleared away is waited for. `mark`: the path by which
    processes of this home are known."""
    running = [box_id for box_id, _pid in live]
    looks: dict[str, Callable[[], list[Any]]] = {
        "descriptors": lambda: of_boxes(daemon, home, len(live)),
        "zombies": lambda: zombies(daemon),
        "processes": lambda: strays(daemon, mark, live),
        "files": lambda: files(home),
        "control groups": lambda: groups(home, running, daemon),
    }
    return {what: _after_waiting(look, seconds) for what, look in looks.items()}


def _after_waiting(look: Callable[[], list[Any]], seconds: float) -> list[Any]:
    """The last look is after the deadline."""
    end = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= end
        found = look()
        if is_last or not found:
            return found
        time.sleep(0.005)


def strays(daemon: int, mark: Path, live: Collection[tuple[str, int]]) -> list[int]:
    """Processes of a home that are neither the daemon's own nor in a box that runs."""
    ours = {daemon, *descendants(daemon)}
    for _box, pid in live:
        ours |= {pid, *descendants(pid)}
    return [pid for pid in named(mark) if pid not in ours]


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


def groups(home: Path, alive: Iterable[str], daemon: int | str = "self") -> list[str]:
    """Control groups of boxes that do not run, found from where the daemon, or this process, is itself."""
    running = set(alive)
    return [
        str(group) for parent in cgroups.parents(home, daemon) for group in parent.iterdir()
        if group.is_dir() and group.name not in running and len(group.name) == 16
    ]  # fmt: skip
