"""Limits and leftovers through control groups: v2 where it is delegated, v1 where that is what there is.

Owns directories named by its own prefix below the hierarchies, and never touches another.
Everything works, and does nothing, on a host without writable cgroups. A box gets a cgroup
only in the hierarchies that it needs: creating one is not free.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from boxlited.supervisor.cgroup_files import v1_writes, v2_writes

ROOT = Path("/sys/fs/cgroup")
V2_CONTROLLERS = {"cpus": "cpu", "memory": "memory", "pids": "pids"}
V1_HIERARCHIES = {"cpus": "cpu", "memory": "memory", "pids": "pids"}
NO_CGROUP = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV})  # ENODEV: removed after it was opened

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CgroupSetup:
    """`join`: directories whose cgroup.procs the hook writes into; `not_applied`: reasons, one each."""

    join: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()


class Cgroups:
    """`v2` is the parent for boxes in the unified hierarchy, `v1` one parent for each limit."""

    def __init__(self, v2: Path | None, v2_limits: frozenset[str], v1: dict[str, Path]) -> None:
        self._v2 = v2
        self._v2_limits = v2_limits
        self._v1 = {limit: path for limit, path in v1.items() if limit not in v2_limits}
        self.supports: frozenset[str] = v2_limits | frozenset(self._v1)

    @classmethod
    def detect(cls, home: Path, root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Cgroups:
        """Find what this process may use. Creates its parents; moves this process into a leaf where
        a delegated v2 subtree demands it. Never raises for what the host lacks; OSError when that cannot be read."""
        prefix = f"boxlited-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"
        memberships = _memberships(own)
        v2, limits = _detect_v2(root, memberships.get(""), prefix)
        v1 = {}
        for limit, hierarchy in V1_HIERARCHIES.items():
            mount = root / hierarchy
            parent = mount / memberships.get(hierarchy, "/").lstrip("/") / prefix
            if (mount / "cgroup.procs").exists() and _make(parent):
                v1[limit] = parent
        return cls(v2, limits, v1)

    def prepare(
        self, box_id: str, run_id: str, *, cpus: float | None, memory_mib: int | None, pids: int | None
    ) -> CgroupSetup:
        """Fresh cgroups for a run. A limit that cannot be applied is said, not an error."""
        wanted = {"cpus": cpus, "memory": memory_mib, "pids": pids}
        join: list[str] = []
        missing: list[str] = []
        if self._v2 is not None and _fresh(self._v2 / box_id):
            join.append(str(self._v2 / box_id))
        for limit, value in wanted.items():
            if value is None:
                continue
            problem = self._apply(limit, box_id, value, join)
            if problem is not None:
                missing.append(f"{limit}: {problem}")
        return CgroupSetup(tuple(join), tuple(missing))

    def _apply(self, limit: str, box_id: str, value: float, join: list[str]) -> str | None:
        if limit in self._v2_limits and self._v2 is not None:
            writes = v2_writes(limit, value)
            directory = self._v2 / box_id
        elif limit in self._v1:
            writes = v1_writes(limit, value)
            directory = self._v1[limit] / box_id
            if not _fresh(directory):
                return "its cgroup could not be made"
            join.append(str(directory))
        else:
            return "no writable cgroup controller on this host"
        for name, text in writes:
            try:
                (directory / name).write_text(text)
            except OSError as error:
                if name.endswith(("swap.max", "memsw.limit_in_bytes")):  # no swap accounting: nothing to limit
                    continue
                return f"{name}: {error.strerror}"
        return None

    def populated(self, box_id: str) -> bool | None:
        """Whether any process is left in the box's cgroups; None when there are none.

        Raises OSError when that cannot be seen: then nobody may say that the box has stopped.
        """
        found: bool | None = None
        for directory in self._directories(box_id):
            inhabited = _inhabited(directory)
            if inhabited:
                return True
            found = inhabited if found is None else found
        return found

    def kill(self, box_id: str) -> None:
        """SIGKILL everything in the box's cgroups, once; call until `populated` is false."""
        for directory in self._directories(box_id):
            with contextlib.suppress(OSError):
                (directory / "cgroup.kill").write_text("1")
                continue
            for pid in _pids(directory) or ():
                _kill_member(directory, pid)

    def oom_kills(self, box_id: str) -> int | None:
        """How often the out-of-memory killer struck in this run; None when that is not counted.

        Raises OSError when it cannot be read now: that is no proof that it did not strike.
        """
        if self._v2 is not None and "memory" in self._v2_limits:
            return _value(_content(self._v2 / box_id / "memory.events"), "oom_kill")
        if "memory" in self._v1:
            return _value(_content(self._v1["memory"] / box_id / "memory.oom_control"), "oom_kill")
        return None

    def usage(self, box_id: str) -> dict[str, int]:
        """What is counted of memory_bytes, cpu_usec, pids."""
        found: dict[str, int | None] = {}
        if self._v2 is not None:
            directory = self._v2 / box_id
            found["memory_bytes"] = _number(directory / "memory.current")
            found["cpu_usec"] = _keyed(directory / "cpu.stat", "usage_usec")
            found["pids"] = _number(directory / "pids.current")
        if "memory" in self._v1:
            found["memory_bytes"] = _number(self._v1["memory"] / box_id / "memory.usage_in_bytes")
        if "pids" in self._v1:
            found["pids"] = _number(self._v1["pids"] / box_id / "pids.current")
        return {key: value for key, value in found.items() if value is not None}

    def remove(self, box_id: str) -> None:
        """Remove the box's empty cgroups; one that is not empty stays for the next try."""
        for directory in self._directories(box_id):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def tidy(self, running: Container[str]) -> bool:
        """Remove the empty cgroups that a killed daemon, or a removal that failed, left of boxes that do not run.

        False when it could not be seen which there are.
        """
        found = [_subdirectories(parent) for parent in (self._v2, *self._v1.values())]
        for name in {name for names in found for name in names or ()}:
            if name not in running:
                self.remove(name)
        return None not in found

    def release(self) -> None:
        """Remove the parents that no box is left in, at the daemon's end."""
        for parent in (self._v2, *self._v1.values()):
            if parent is not None:
                with contextlib.suppress(OSError):
                    parent.rmdir()

    def _directories(self, box_id: str) -> Iterator[Path]:
        for parent in (self._v2, *self._v1.values()):
            if parent is not None:
                yield parent / box_id


def _subdirectories(parent: Path | None) -> list[str] | None:
    """None when it cannot be read now."""
    if parent is None:
        return []
    try:
        with os.scandir(parent) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError:
        return None


def _memberships(own: Path) -> dict[str, str]:
    """Controller -> path of this process; "" is the unified hierarchy."""
    found: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):  # any other error is no absence: the limits of boxes hang on it
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _detect_v2(root: Path, membership: str | None, prefix: str) -> tuple[Path | None, frozenset[str]]:
    if membership is None:
        return None, frozenset()
    mount = root if (root / "cgroup.controllers").exists() else root / "unified"
    own = mount / membership.lstrip("/")
    base, may_enable = _base(own)
    if not (base / "cgroup.procs").exists():
        return None, frozenset()
    parent = base / prefix
    if not _make(parent):
        return None, frozenset()
    available = _words(base / "cgroup.controllers") & set(V2_CONTROLLERS.values())
    if available and not may_enable:
        log.warning("no limits: boxes have no unit beside the daemon's", unit=own.name, wanted=_boxes_unit(own).name)
        return parent, frozenset()
    if available and base == own:
        _empty(base, [os.getpid()], "daemon")
    elif available:
        _empty(base, _pids(base) or [], "holder")
    enabled = _enable(base, available) and _enable(parent, available)
    limits = frozenset(limit for limit, name in V2_CONTROLLERS.items() if enabled and name in available)
    return parent, limits


def _base(own: Path) -> tuple[Path, bool]:
    """Where the boxes' cgroups go, and whether controllers may be enabled there.

    A cgroup with enabled controllers takes no process any more. Were it the daemon's service, the service manager
    could not put the next daemon into it (status=219/CGROUP) while a box lives. So the boxes of a service belong to
    another unit, unless the manager itself starts daemons in a leaf (DelegateSubgroup=daemon).
    """
    if own.name == "daemon":  # the manager put us there, or an earlier daemon moved there itself
        return own.parent, True
    if own.suffix != ".service":
        return own, True
    boxes = _boxes_unit(own)
    return (boxes, True) if os.access(boxes / "cgroup.procs", os.W_OK) else (own, False)


def _boxes_unit(own: Path) -> Path:
    return own.with_name(f"{own.stem}-boxes.service")


def _empty(base: Path, pids: list[int], name: str) -> None:
    """Controllers can be enabled only in a cgroup without processes: move these into a leaf.

    They are this process, or the one that holds the unit of the boxes. Others are never moved: where there are
    any, this cgroup was not made for us. The root of the whole hierarchy, which alone has no type, may keep its
    processes.
    """
    leaf = base / name
    if _words(base / "cgroup.subtree_control") or not (base / "cgroup.type").exists() or not _make(leaf):
        return
    for pid in pids:
        with contextlib.suppress(OSError):
            (leaf / "cgroup.procs").write_text(str(pid))


def _enable(directory: Path, controllers: set[str]) -> bool:
    if not controllers:
        return False
    try:
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(controllers)))
    except OSError as error:
        log.info("cgroup controllers are not delegated", directory=str(directory), error=error.strerror)
        return False
    return True


def _make(directory: Path) -> bool:
    try:
        directory.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(directory / "cgroup.procs", os.W_OK)


def _fresh(directory: Path) -> bool:
    """A new cgroup: its counters begin at zero."""
    with contextlib.suppress(OSError):
        directory.rmdir()
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        log.warning("a cgroup could not be made", directory=str(directory), error=error.strerror)
        return False
    return True


def _pids(directory: Path) -> list[int] | None:
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return None


def _kill_member(directory: Path, pid: int) -> None:
    """Through a pidfd of a process that is still a member after it was opened."""
    if pid <= 1:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if pid in (_pids(directory) or ()):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return
    finally:
        os.close(pidfd)


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _content(path: Path) -> str | None:
    """None when there is no such cgroup or file; other OSErrors pass through."""
    try:
        return path.read_text()
    except OSError as error:
        if error.errno in NO_CGROUP:
            return None
        raise


def _inhabited(directory: Path) -> bool | None:
    """With v2 the kernel counts the groups within, which a box may have made; `cgroup.procs` names only its own."""
    counted = _value(_content(directory / "cgroup.events"), "populated")
    if counted is not None:
        return counted != 0
    members = _content(directory / "cgroup.procs")
    return None if members is None else bool(members.strip())


def _keyed(path: Path, key: str) -> int | None:
    try:
        return _value(_content(path), key)
    except OSError:
        return None


def _value(content: str | None, key: str) -> int | None:
    for line in (content or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value) if value.strip().isdigit() else None
    return None
